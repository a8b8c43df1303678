"""An experiment that DVC runs in a folder of its own: `dvc exp run --temp` or `--queue`.

Git fills that folder, and what git ignores is missing there: the data. DVC names the project it comes from in the
environment, so the first stage links the data from there.
"""

import os
from pathlib import Path

from rca.params.schema import Params, load_stages

HOME = "DVC_ROOT"  # set by DVC: the folder of the project that started the experiment
DATA = Path("data")


def find_home() -> Path | None:
    """The project that started this experiment; None if the current folder is a project of its own."""
    home = os.environ.get(HOME)
    return None if not home or Path(home).resolve() == Path().resolve() else Path(home)


def link_data(params: Params, home: Path) -> None:
    """Link the datasets that the pipeline does not make itself, where the project has them.

    Args:
        params: The experiment's params.
        home: The project that started it.
    """
    made = params.list_tasks("generate_data", load_stages()["generate_data"])
    for name in {params.dataset.name, *params.project.links} - made.keys():
        link, target = DATA / name, (home / DATA / name)
        if target.exists() and not os.path.lexists(link):
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(target.resolve(), target_is_directory=True)
