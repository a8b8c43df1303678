"""All that the adapter uses of DVC, for the version that is installed.

`make test-dvc` runs it on the oldest and on the newest version in the range of pyproject.toml.
"""

import json
import shutil
import threading
import time
from importlib.metadata import version

import pytest
from dvc.lock import LockBase, LockError
from dvc.repo import Repo
from projects import WAIT, Toy

from rca.core.errors import UserError
from rca.pipeline.dvc_patches import PatientLock
from rca.pipeline.dvc_project import DvcProject

META = "{resources: {mem_mb: 1, runtime: 1}}"
LONG = "echo " + " ".join(f"word-{number:03}" for number in range(60)) + " > one"
VALUES = """\
values:
  texts: ['yes', 'on', '1_000', '12:30', '', ' a', "it's: #", "two\\nlines", 'ünï', '2020-01-01', '~', '0x1', '1e3']
  numbers: [1, -2.5, 1.0e-7, 1e10, .inf, 0o17]
  others: [true, null, {}, [], {1: one, 2: {b: [c]}}]
"""


def test_the_version_is_in_the_range() -> None:
    major, minor, *_ = map(int, version("dvc").split(".")[:2])
    assert major == 3
    assert minor >= 63


def test_the_lock_file_is_replaced_whole_and_in_the_form_of_dvc(finished: Toy) -> None:
    lock = finished.path / "dvc.lock"
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    finished.run("dvc", "repro", "-q", "train@rca-0")
    by_dvc, inode = lock.read_bytes(), lock.stat().st_ino
    finished.run("git", "checkout", "-q", "dvc.lock")
    DvcProject(finished.path).record("train@rca-0")
    assert lock.read_bytes() == by_dvc
    assert lock.stat().st_ino != inode  # DVC itself writes in place


def test_values_of_every_kind_are_written_as_dvc_writes_them(toy: Toy) -> None:
    (toy.path / "dvc.yaml").write_text(
        "stages:\n"
        f"  one: {{cmd: '{LONG}', params: [kinds.yaml: [values]], deps: [step.py], outs: [one], meta: {META}}}\n"
        f"  two: {{cmd: ['echo 1 > two', 'echo 2 >> two'], wdir: sub, deps: [../one], outs: [two], meta: {META}}}\n"
        f"  three: {{cmd: touch 3.csv 4.json, plots: [3.csv: {{cache: false, x: a}}], metrics: [4.json],"
        f" params: [other.yaml: ], meta: {META}}}\n"
    )
    (toy.path / "kinds.yaml").write_text(VALUES)
    (toy.path / "other.yaml").write_text("a: {b: 1.0e-7, c: 'no'}\n")
    (toy.path / "sub").mkdir()
    toy.run("dvc", "repro", "-q")
    lock, ignored = (toy.path / "dvc.lock").read_bytes(), (toy.path / "sub/.gitignore").read_bytes()
    for name in ("dvc.lock", "one", "sub/two", "3.csv", "4.json", ".dvc/cache", "sub/.gitignore"):
        path = toy.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    toy.snakemake()
    assert (toy.path / "dvc.lock").read_bytes() == lock
    assert (toy.path / "sub/.gitignore").read_bytes() == ignored
    assert "up to date" in toy.run("dvc", "status")


def test_the_repository_lock_is_taken_where_it_is_replaced(finished: Toy) -> None:
    project = DvcProject(finished.path)
    assert isinstance(project.repo.lock, PatientLock)
    assert issubclass(PatientLock, LockBase)
    other = Repo(str(finished.path))
    with other.lock:
        waiter = threading.Thread(target=project.list_declared, daemon=True)
        waiter.start()
        time.sleep(0.5)
        assert waiter.is_alive()
    waiter.join(30)
    assert not waiter.is_alive()
    with other.lock, pytest.raises((LockError, UserError)):
        DvcProject(finished.path, patience=0.1).list_declared()


def test_stages_have_what_is_read_of_them(finished: Toy) -> None:
    declared = {stage.name: stage for stage in DvcProject(finished.path).list_declared()}
    train, prepare = declared["train@rca-0"], declared["prepare"]
    assert (train.deps, train.params) == (("data/images",), ("params.yaml",))
    assert train.command == "python step.py train@rca-0 runs/rca-0/model.txt"
    assert [(out.path, out.kind, out.directory) for out in train.outs] == [
        ("runs/rca-0/model.txt", "training_curves", False)
    ]
    assert [(out.path, out.directory) for out in prepare.outs] == [("data/images", True)]
    names = list(declared)
    assert names.index("prepare") < names.index("train@rca-0") < names.index("score@rca-0-1") < names.index("tabulate")


def test_status_names_changed_stages(finished: Toy) -> None:
    project = DvcProject(finished.path)
    assert project.list_changed() == set()
    assert not project.is_changed("train@rca-0")
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    project = DvcProject(finished.path)
    assert project.list_changed() == {"train@rca-0"}
    assert project.is_changed("train@rca-0")
    assert not project.is_changed("nobody")


def test_a_key_of_a_file_that_a_stage_writes_is_a_parameter(toy: Toy) -> None:
    """What pins rest on: the stage that writes the file runs first, and one key of it concerns one stage."""
    (toy.path / "dvc.yaml").write_text(
        "stages:\n"
        "  pin: {cmd: cp source.json pins.json, deps: [source.json], outs: [pins.json]}\n"
        "  none: {matrix: {run: '${nobody}'}, cmd: 'touch ${item.run}', outs: ['${item.run}']}\n"
        "  one: {cmd: touch one, params: [{pins.json: [one.code]}], outs: [one]}\n"
        "  two: {cmd: touch two, params: [{pins.json: [two.code]}], outs: [two]}\n"
    )
    (toy.path / "params.yaml").write_text("nobody: []\n")

    def pin(one: str, two: str) -> list[str]:
        (toy.path / "source.json").write_text(json.dumps({"one": {"code": one}, "two": {"code": two}}))
        text = toy.run("dvc", "repro", "one", "two")
        return [name for name in ("pin", "one", "two") if f"Running stage '{name}'" in text]

    assert pin("a", "b") == ["pin", "one", "two"]
    assert pin("a", "b") == []
    assert pin("a", "c") == ["pin", "two"]


def test_running_stages_are_listed_with_their_process(finished: Toy) -> None:
    (finished.outside / "wait").write_text("train")
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    process = finished.start("dvc", "repro", "train@rca-0")
    path = finished.path / ".dvc/tmp/rwlock"
    give_up = time.monotonic() + WAIT
    while not (path.exists() and json.loads(path.read_text() or "{}").get("write")):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    entries = json.loads(path.read_text())
    assert {who["pid"] for who in entries["write"].values()} == {process.pid}
    assert all("dvc" in who["cmd"] for who in entries["write"].values())
    with pytest.raises(UserError, match="The pipeline is running"):
        DvcProject(finished.path).files.check_idle()
    (finished.outside / "wait").unlink()
    process.communicate(timeout=WAIT)
