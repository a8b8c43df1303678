"""What a job is handed and what it records, each in a file of its own: jobs share no file and no lock.

The plan writes a task for each job, so that none resolves dvc.yaml or reads dvc.lock. A job writes a record, and the
records are merged into dvc.lock together: when Snakemake ends or, after a kill, at the next start.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rca.core.errors import UserError

FOLDER = Path(".rca")
TASKS = FOLDER / "tasks"
RECORDS = FOLDER / "records"
RWLOCK = Path(".dvc/tmp/rwlock")  # DVC's list of what running stages use, "{}" or absent if none runs
FORCED = FOLDER / "forced.json"  # the jobs that run whatever changed, in the present run of Snakemake


@dataclass(frozen=True)
class Task:
    """A stage as its job needs it.

    Attributes:
        name: DVC's name of the stage, such as `train_cam@rca-0`.
        stage: Its entry in dvc.yaml, resolved.
        recorded: Its entry in dvc.lock; empty if it has none.
        state: The folder where DVC remembers the checksums of files.
    """

    name: str
    stage: Mapping[str, Any]
    recorded: Mapping[str, Any]
    state: str


@dataclass(frozen=True)
class Record:
    """A stage that ran.

    Attributes:
        task: What its job was handed. If dvc.lock has another entry by now, that one is newer than this record.
        after: The entry that takes its place.
    """

    task: Task
    after: Mapping[str, Any]


def write_tasks(root: Path, tasks: Iterable[Task]) -> None:
    """Write the tasks that changed."""
    (root / TASKS).mkdir(parents=True, exist_ok=True)
    for task in tasks:
        path, text = locate(root / TASKS, task.name), encode(asdict(task))
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text)


def read_task(root: Path, name: str) -> Task:
    """Read the task of a job.

    Raises:
        UserError: The plan has no such job.
    """
    path = locate(root / TASKS, name)
    if not path.exists():
        raise UserError(f"There is no stage {name} in the plan of a Snakemake process: {path} does not exist.")
    return Task(**decode(path.read_text(encoding="utf-8")))


def write_record(root: Path, record: Record) -> None:
    """Write a record, in the place of an earlier one of the same stage."""
    (root / RECORDS).mkdir(parents=True, exist_ok=True)
    write_whole(locate(root / RECORDS, record.task.name), encode(asdict(record)))


def read_record(path: Path) -> Record:
    """Read a record."""
    content = decode(path.read_text(encoding="utf-8"))
    return Record(Task(**content["task"]), content["after"])


def find_recorded(root: Path, task: Task) -> Mapping[str, Any]:
    """The present entry of a stage: of dvc.lock, or of an earlier try of its job, which is not merged yet."""
    path = locate(root / RECORDS, task.name)
    record = read_record(path) if path.exists() else None
    return record.after if record and record.task.recorded == task.recorded else task.recorded


def list_records(root: Path) -> list[Path]:
    """The files of all records that are not merged yet."""
    return sorted((root / RECORDS).glob("*.json"))


def is_forced(root: Path, name: str) -> bool:
    """Whether the present run of Snakemake forces a job to run (`-R`), even if nothing changed."""
    path = root / FORCED
    return path.exists() and name in json.loads(path.read_text(encoding="utf-8"))


def name_log(stage: str) -> str:
    """Return the path of a stage's log, with "." for "@", which is awkward in shells."""
    return f"logs/{stage.replace('@', '.')}.log"


def locate(folder: Path, name: str) -> Path:
    """The file of a stage."""
    return folder / f"{quote(name, safe='@')}.json"


def write_whole(path: Path, text: str) -> None:
    """Replace a file, so that no reader and no kill finds a part of it."""
    part = path.with_suffix(".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:  # a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from None


def encode(content: Mapping[str, Any]) -> str:
    """JSON, or YAML where values of parameters are dates or keys are numbers, which JSON does not keep."""
    text = json.dumps(content, default=str)
    if json.loads(text) == content:
        return text
    import yaml  # imported late, since few need it

    return yaml.safe_dump(make_plain(content), sort_keys=False)


def decode(text: str) -> dict[str, Any]:
    """What `encode` was given, with lists for tuples."""
    content: dict[str, Any]
    if text.startswith("{"):
        content = json.loads(text)
    else:
        import yaml

        content = yaml.safe_load(text)
    return content


def make_plain(value: Any) -> Any:
    """Turn mappings and sequences of any kind into dicts and lists."""
    if isinstance(value, Mapping):
        return {key: make_plain(item) for key, item in value.items()}
    return [make_plain(item) for item in value] if isinstance(value, list | tuple) else value
