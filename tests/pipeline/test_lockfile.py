"""dvc.lock under both engines: written whole or not at all, named where it is damaged, and nothing of it is lost."""

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml
from projects import ROOT, Toy, wait_until

from rca.cli.main import main
from rca.core.errors import UserError
from rca.pipeline.lockfile import check_lock, replace_file
from rca.pipeline.plan import merge_pending

ENGINES = {"dvc": ("dvc", "repro"), "snakemake": ("snakemake", "--cores", "2")}
# The command `dvc` as it is installed, and one that stops after the first bytes of each dvc.lock that it writes.
START = """
import site, sys
folder, *arguments = sys.argv[1:]
sys.orig_argv = [sys.executable, "bin/dvc", *arguments]
site.addsitedir(folder)
from dvc.cli import main
sys.exit(main(arguments))
"""
SLOW = """
import io, pathlib, signal, site, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
folder, ledger, *arguments = sys.argv[1:]
sys.orig_argv = [sys.executable, "bin/dvc", *arguments]
site.addsitedir(folder)
from dvc.cli import main
from dvc.utils.serialize import _yaml

write = _yaml._dump

def dump(data, stream):
    text = io.StringIO()
    write(data, text)
    text = text.getvalue()
    stream.write(text[:5])
    if "stages" in data:
        stream.flush()
        pathlib.Path(ledger, "half").touch()
        time.sleep(600)
    stream.write(text[5:])

_yaml._dump = dump
sys.exit(main(arguments))
"""


def break_off(toy: Toy, number: int, installed: Path) -> None:
    """Send `dvc repro` a signal while it writes dvc.lock."""
    toy.edit("params.yaml", "rate: 2", "rate: 3")
    process = toy.start(sys.executable, "-c", SLOW, str(installed), str(toy.outside), "repro")
    wait_until(lambda: (toy.outside / "half").exists() or process.poll() is not None)
    assert (toy.outside / "half").exists(), process.communicate()[0]
    process.send_signal(number)
    process.communicate()


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM, signal.SIGKILL]
)
def test_dvc_writes_the_lock_whole_or_not_at_all(finished, number):
    before = (finished.path / "dvc.lock").read_bytes()
    break_off(finished, number, ROOT / "workflow")
    assert (finished.path / "dvc.lock").read_bytes() == before
    (finished.outside / "half").unlink()
    assert finished.list_ran() == ["train@rca-0"]
    finished.run("dvc", "repro", "-q")
    assert finished.list_ran() == ["score@rca-0-0", "score@rca-0-1", "tabulate"]  # the training is in DVC's cache
    status = finished.run("git", "status", "--porcelain").split("\n")
    assert [line[3:] for line in status if line] == ["dvc.lock", "params.yaml", "results/table.json"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lock_that_was_cut_is_named_and_nothing_runs_again(finished, tmp_path, engine):
    (tmp_path / "nothing").mkdir()
    break_off(finished, signal.SIGKILL, tmp_path / "nothing")  # without the file that is installed
    text = finished.run(*ENGINES[engine], code={"dvc": 255, "snakemake": 1}[engine])
    assert "Traceback" not in text
    if engine == "snakemake":
        assert "restore it with `git checkout dvc.lock`, or delete it" in text
    with pytest.raises(UserError, match=r"dvc\.lock .*restore it with `git checkout dvc\.lock`, or delete it"):
        merge_pending(finished.path)
    finished.list_ran()
    (finished.path / "dvc.lock").unlink()
    finished.run(*ENGINES[engine])
    assert finished.list_ran() == ["score@rca-0-0", "score@rca-0-1", "tabulate"]
    assert "Data and pipelines are up to date." in finished.run("dvc", "status")


@pytest.mark.parametrize("engine", ENGINES)
def test_entries_that_are_gone_come_back_from_the_cache(finished, engine):
    lock = finished.path / "dvc.lock"
    whole = lock.read_bytes()
    lock.write_bytes(whole[: whole.index(b"  score@cam-0-1:")])
    shutil.rmtree(finished.path / "runs")
    finished.run(*ENGINES[engine])
    assert finished.list_ran() == []
    assert lock.read_bytes() == whole


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_folder_of_the_run_cache_is_no_matter(finished, engine):
    shutil.rmtree(finished.path / "runs/rca-0")
    (finished.path / "dvc.lock").unlink()
    for run in (finished.path / ".dvc/cache/runs").rglob("*"):
        if run.is_file() and "train@rca-0" in run.read_text():
            run.unlink()
            os.utime(run.parent, (1e9, 1e9))
    if engine == "dvc":
        finished.run(sys.executable, "-c", START, str(ROOT / "workflow"), "repro")
    else:
        finished.run(*ENGINES[engine])
    assert finished.list_ran() == ["train@rca-0"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("left", ["", '{"write": {"/a": {"pid": 1'], ids=["nothing", "a part"])
def test_a_list_of_running_stages_that_a_kill_cut_is_no_matter(finished, engine, left):
    (finished.path / ".dvc/tmp/rwlock").write_text(left)
    shutil.rmtree(finished.path / "runs/rca-0")  # so that there is something to do
    if engine == "dvc":
        finished.run(sys.executable, "-c", START, str(ROOT / "workflow"), "repro")
    else:
        finished.run(*ENGINES[engine])
    assert (finished.path / "runs/rca-0").is_dir()
    assert not any(json.loads((finished.path / ".dvc/tmp/rwlock").read_text()).values())


@pytest.mark.parametrize("engine", ENGINES)
def test_what_has_changed_in_the_cache_is_made_again(finished, engine):
    model = finished.path / "runs/rca-0/model.txt"
    content = model.read_bytes()
    digest = hashlib.md5(content).hexdigest()
    cached = finished.path / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"
    cached.chmod(0o644)
    cached.write_bytes(content[:-1] + b"?")
    cached.chmod(0o444)
    model.unlink()
    if engine == "dvc":
        finished.run(sys.executable, "-c", START, str(ROOT / "workflow"), "repro")
    else:
        finished.run(*ENGINES[engine])
    assert finished.list_ran() == ["train@rca-0"]
    assert model.read_bytes() == cached.read_bytes() == content


def find_refusal(root: Path) -> UserError | None:
    try:
        check_lock(root)
    except UserError as error:
        return error
    return None


def test_every_cut_is_refused_but_one_between_entries(finished_template, tmp_path):
    whole = (finished_template.path / "dvc.lock").read_bytes()
    entries = yaml.safe_load(whole)["stages"]
    lock, accepted = tmp_path / "dvc.lock", []
    for length in range(len(whole) + 1):
        lock.write_bytes(whole[:length])
        if find_refusal(tmp_path) is None:
            accepted.append(dict(yaml.safe_load(whole[:length])["stages"]))
    assert accepted[-1] == entries
    assert all(entries[name] == entry for part in accepted for name, entry in part.items())
    assert len(accepted) == len(entries)


@pytest.mark.parametrize(
    ("text", "damage"),
    [
        ("", "is empty"),
        ("\0" * 100, "is no YAML"),
        ("<<<<<<< HEAD\nschema: '2.0'\n=======\n", "is no YAML"),
        ("schema: '2.0'\n", "lists no stages"),
        ("[1]\n", "lists no stages"),
        ("schema: '2.0'\nstages:\n  a: 1\n", "is incomplete at stage a"),
        ("schema: '2.0'\nstages:\n  a: {cmd: b}\n", "is incomplete at stage a"),
        ("schema: '2.0'\nstages: {}", "ends in the middle of a line"),
    ],
)
def test_what_is_wrong_with_a_lock_is_one_sentence(text, damage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text(text)
    assert main(["show"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {Path.cwd()}/dvc.lock {damage}: restore it with `git checkout dvc.lock`")
    assert error.count("\n") == 1


def test_a_project_without_a_lock_is_in_order(tmp_path):
    check_lock(tmp_path)


def test_parts_lie_in_the_folder_of_dvc(tmp_path):
    run = tmp_path / ".dvc/cache/runs/ab/abc/.token.tmp"
    run.parent.mkdir(parents=True)
    (tmp_path / ".dvc/tmp/.dvc.lock.part").mkdir(parents=True)  # which is in the way of one there
    (tmp_path / ".dvc/tmp/..token.tmp.part").mkdir()
    for path in (run, tmp_path / "dvc.lock"):
        with pytest.raises(IsADirectoryError):
            replace_file(path, "new")
    (tmp_path / ".dvc/tmp/..token.tmp.part").rmdir()
    replace_file(run, "new")
    assert run.read_text() == "new"
    assert os.listdir(run.parent) == [run.name]


def test_the_lock_keeps_its_mode_and_a_link_stays(tmp_path):
    kept, link = tmp_path / "kept", tmp_path / "dvc.lock"
    kept.write_text("old")
    kept.chmod(0o640)
    link.symlink_to(kept)
    replace_file(link, "new")
    assert (link.is_symlink(), kept.read_text(), kept.stat().st_mode & 0o777) == (True, "new", 0o640)
    assert sorted(os.listdir(tmp_path)) == ["dvc.lock", "kept"]
