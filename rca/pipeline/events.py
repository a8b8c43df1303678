"""What Snakemake reports of its jobs, as lines of JSON in a file that another process reads: `rca run` shows them."""

import json
import logging
import os
import time
from pathlib import Path

VARIABLE = "RCA_EVENTS"  # names the file; without it nothing is written
LOGGER = "snakemake.logging"
# The fields of Snakemake's log records that are kept, and their names here: it has two names for the number of a job.
FIELDS = {"jobid": "job", "job_id": "job", "rule_msg": "name", "done": "done", "total": "total"}


class EventFile(logging.Handler):
    """Writes the events of the jobs.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if the record is an event of a job or of the progress."""
        event = str(getattr(record, "event", None) or "")
        if event.startswith(("job_", "progress")):
            fields = {name: getattr(record, field) for field, name in FIELDS.items() if hasattr(record, field)}
            line = json.dumps({"event": event, "time": time.time(), **fields}, default=str)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def report_events() -> None:
    """Report what Snakemake does in this process, if a file for it is named."""
    path = os.environ.get(VARIABLE)
    if path:
        logging.getLogger(LOGGER).addHandler(EventFile(Path(path)))
