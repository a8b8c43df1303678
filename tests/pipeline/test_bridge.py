"""Both engines on a toy project: what ran is read from a ledger that the stages' commands write."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from zipfile import ZipFile

import psutil
import pynvml
import pytest
from projects import ROOT, WAIT, is_running, wait_until

from rca.core.errors import UserError
from rca.pipeline.gpus import lease_gpus
from rca.pipeline.plan import merge_pending, name_rule
from rca.pipeline.resolve import find_undeclared, read_meta, resolve_jobs
from rca.pipeline.rwlock import FileList
from rca.pipeline.tasks import Record, Task, list_records, read_task, write_record, write_tasks

NOTHING = "Nothing to be done"
BRANCH = ["score@rca-0-0", "score@rca-0-1", "tabulate", "train@rca-0"]
EVERYTHING = sorted([*BRANCH, "prepare", "train@cam-0", "score@cam-0-0", "score@cam-0-1"])


def start_job(toy, name: str, gpus: int = 0, **variables: str) -> subprocess.Popen[str]:
    return toy.start(sys.executable, "-m", "rca.pipeline.run_job", name, "--gpus", str(gpus), **variables)


def plan(toy) -> None:
    """Make the plan that a job needs, as Snakemake does."""
    toy.run(sys.executable, "-c", "from pathlib import Path; from rca.pipeline.plan import *; make_plan(Path())")


def hold(toy, stages: str) -> None:
    """Let the commands of stages whose name contains `stages` wait once they have started."""
    (toy.outside / "wait").write_text(stages)


def wait_for_command(toy, *stages: str) -> None:
    wait_until(lambda: all((toy.outside / f"waiting-{stage}").exists() for stage in stages))


def list_users(toy) -> set[int]:
    """The processes in DVC's list of files in use."""
    content = json.loads((toy.path / ".dvc/tmp/rwlock").read_text())
    return {entry["pid"] for entry in content["write"].values()}


def let_go(toy) -> None:
    (toy.outside / "wait").unlink()


def test_engines_agree_on_a_fresh_run(toy, finished_template):
    assert "8 of 9 steps" in toy.snakemake("--resources", "gpu=1")
    assert toy.list_ran() == EVERYTHING
    # Not only the same content: the same bytes, although the stages ended in another order.
    assert (toy.path / "dvc.lock").read_bytes() == (finished_template.path / "dvc.lock").read_bytes()

    assert NOTHING in toy.snakemake()
    assert "Data and pipelines are up to date." in toy.run("dvc", "repro")
    assert toy.list_ran() == []


def test_only_what_changed_runs_again(finished):
    assert NOTHING in finished.snakemake("--dry-run")
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    finished.snakemake()
    assert finished.list_ran() == BRANCH

    finished.run("git", "commit", "-qam", "faster")
    for revision in ("HEAD~1", "-"):
        finished.run("git", "checkout", "-q", revision)
        finished.run("dvc", "checkout", "-q")
        assert NOTHING in finished.snakemake()

    model = finished.path / "runs/rca-0/model.txt"
    content = model.read_text()
    shutil.rmtree(finished.path / "runs")
    finished.snakemake("runs/rca-0/model.txt")  # a target by its file name
    assert model.read_text() == content
    assert not (finished.path / "runs/cam-0").exists()
    log = (finished.path / "logs/train.rca-0.log").read_text()
    assert "Stage 'train@rca-0' is cached - skipping run, checking out outputs" in log
    assert finished.list_ran() == []


def test_a_killed_run_loses_only_what_was_unfinished(finished):
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    hold(finished, "score")
    process = finished.start("snakemake", "--cores", "2")
    wait_for_command(finished, "score@rca-0-0", "score@rca-0-1")
    refusal = finished.snakemake("--dry-run", code=1)
    assert f"The pipeline is running: process {process.pid} (snakemake)" in refusal
    assert "Traceback" not in refusal

    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    let_go(finished)
    assert json.loads((finished.path / ".dvc/tmp/rwlock").read_text())["write"]
    assert finished.list_ran() == ["score@rca-0-0", "score@rca-0-1", "train@rca-0"]
    finished.snakemake()
    assert finished.list_ran() == ["score@rca-0-0", "score@rca-0-1", "tabulate"]


def test_a_terminated_stage_stops_its_command_and_frees_its_locks(finished):
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    hold(finished, "train")
    plan(finished)
    process = start_job(finished, "train@rca-0")
    wait_for_command(finished, "train@rca-0")
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    text, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 1, text
    assert children
    # They were told to stop and may still be at it; a zombie has stopped, though nobody has asked after it.
    wait_until(lambda: not any(is_running(child) for child in children))
    assert json.loads((finished.path / ".dvc/tmp/rwlock").read_text()) == {}


def test_a_failing_stage_shows_its_sentence_under_both_engines(finished):
    (finished.outside / "fail").write_text("train@rca-0")
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    text = finished.snakemake(code=1)
    assert text.count("The learning rate is a banana.") == 2  # as it failed, and from its log
    assert "Stage train@rca-0 did not succeed: failed to run: python step.py train@rca-0" in text
    assert "log: logs/train.rca-0.log (check log file(s) for error details)" in text
    assert "The learning rate is a banana." in finished.run("dvc", "repro", code=255)


def test_a_failure_of_dvc_is_one_sentence_in_the_log(toy):
    plan(toy)
    text = toy.run(sys.executable, "-m", "rca.pipeline.run_job", "score@cam-0-0", code=1)
    sentence = "runs/cam-0/model.txt cannot be used (No such file or directory): put it there, or correct its name"
    assert text.startswith("error: Stage score@cam-0-0 did not succeed: ")
    assert f"{sentence}; its log is logs/score.cam-0-0.log." in text
    assert text.count("\n") == 1
    assert sentence in (toy.path / "logs/score.cam-0-0.log").read_text()
    text = toy.run(sys.executable, "-m", "rca.pipeline.run_job", "train@nobody", code=1)
    assert "There is no stage train@nobody in the plan of a Snakemake process" in text
    assert text.count("\n") == 1


def test_stages_run_at_once_are_all_recorded(toy):
    toy.run("dvc", "repro", "-q", "prepare")
    plan(toy)
    for wave in (
        ["train@cam-0", "train@rca-0"],
        [f"score@{run}-0-{shard}" for run in ("cam", "rca") for shard in "01"],
    ):
        for name, process in [(name, start_job(toy, name)) for name in wave]:
            text, _ = process.communicate(timeout=WAIT)
            assert process.returncode == 0, (name, text)
    merge_pending(toy.path)
    assert toy.run("dvc", "repro", "--dry").count("Running stage") == 1  # tabulate


def test_a_job_does_not_wait_for_the_lock_of_the_repository(finished):
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    plan(finished)
    inode, before = (finished.path / "dvc.lock").stat().st_ino, (finished.path / "dvc.lock").read_bytes()
    with (finished.path / ".dvc/tmp/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text, _ = start_job(finished, "train@rca-0").communicate(timeout=WAIT)
        assert finished.list_ran() == ["train@rca-0"], text
    assert (finished.path / "dvc.lock").read_bytes() == before
    assert len(list_records(finished.path)) == 1
    merge_pending(finished.path)
    assert list_records(finished.path) == []
    assert "train@rca-0" not in finished.run("dvc", "status", "train@rca-0")
    assert (finished.path / "dvc.lock").stat().st_ino != inode  # replaced, not written in place
    merged = (finished.path / "dvc.lock").read_bytes()
    finished.run("git", "checkout", "-q", "dvc.lock")
    finished.run("dvc", "repro", "-q", "train@rca-0")
    assert (finished.path / "dvc.lock").read_bytes() == merged


def test_a_second_try_starts_from_the_record_of_the_first(finished):
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    plan(finished)
    for ran in (["train@rca-0"], []):
        start_job(finished, "train@rca-0").communicate(timeout=WAIT)
        assert finished.list_ran() == ran
        assert len(list_records(finished.path)) == 1


def test_a_record_gives_way_to_what_dvc_recorded_after_it(finished):
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    plan(finished)
    start_job(finished, "train@rca-0").communicate(timeout=WAIT)
    finished.edit("params.yaml", "rate: 3", "rate: 4")
    finished.run("dvc", "repro", "-q", "train@rca-0")
    newest = (finished.path / "dvc.lock").read_bytes()
    merge_pending(finished.path)
    assert (finished.path / "dvc.lock").read_bytes() == newest
    assert list_records(finished.path) == []


def test_a_record_is_dropped_with_the_lock_file_that_it_rests_on(finished):
    from rca.pipeline.dvc_project import DvcProject

    (task,) = (task for task in DvcProject(finished.path).list_tasks() if task.name == "train@rca-0")
    write_record(finished.path, Record(task, {**task.recorded, "cmd": "true"}))
    (finished.path / "dvc.lock").unlink()
    merge_pending(finished.path)
    assert list_records(finished.path) == []
    assert not (finished.path / "dvc.lock").exists()
    assert read_task(finished.path, task.name) == replace(task, recorded={})


def test_dvc_loses_no_work_of_a_killed_run_that_is_not_merged(finished):
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    hold(finished, "score")
    process = finished.start("snakemake", "--cores", "2")
    wait_for_command(finished, "score@rca-0-0", "score@rca-0-1")
    users = list_users(finished)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # DVC takes a process for alive until init has reaped it, which some do late.
    wait_until(lambda: not any(map(psutil.pid_exists, users)))
    let_go(finished)
    assert len(list_records(finished.path)) == 1
    finished.list_ran()
    finished.run("dvc", "repro", "-q")
    assert finished.list_ran() == ["score@rca-0-0", "score@rca-0-1", "tabulate"]
    lock = (finished.path / "dvc.lock").read_bytes()
    finished.snakemake()  # it starts what it left unfinished once more, and DVC restores that
    assert finished.list_ran() == []
    assert (finished.path / "dvc.lock").read_bytes() == lock


def test_what_dvc_recorded_of_a_new_run_stays_in_its_order(finished):
    plan(finished)
    finished.edit("params.yaml", "runs: [cam, rca]", "runs: [cam, rca, new]")
    finished.edit("params.yaml", "run:\n", "run:\n  new: {rate: 5}\n")
    finished.run("dvc", "repro", "-q")
    lock = (finished.path / "dvc.lock").read_bytes()
    plan(finished)
    assert (finished.path / "dvc.lock").read_bytes() == lock


def test_dvc_is_asked_only_if_a_file_changed(finished):
    blocker = finished.outside / "blocker"
    blocker.mkdir()
    (blocker / "dvc.py").write_text("raise RuntimeError('DVC was imported')")

    def is_asked() -> bool:
        script = "from pathlib import Path; from rca.pipeline.plan import *; print(recall_plan(Path()) is None)"
        asked = finished.run(sys.executable, "-c", script, PYTHONPATH=f"{blocker}:{ROOT}").strip() == "True"
        plan(finished)
        return asked

    def touch(name: str) -> None:
        os.utime(finished.path / name, (1e9, 1e9))

    assert is_asked()
    assert not is_asked()
    for name in ("dvc.yaml", "params.yaml", "dvc.lock", "data/images/1.txt", "runs/rca-0/model.txt"):
        touch(name)
        assert is_asked(), name
    (finished.path / "runs/cam-0/model.txt").unlink()
    assert is_asked()
    assert is_asked() is False
    next((finished.path / ".dvc/cache/files/md5").glob("??/*")).unlink()
    assert is_asked()
    (finished.path / "more.yaml").write_text("more: 1\n")
    finished.edit("dvc.yaml", "stages:\n", "vars: [more.yaml]\nstages:\n")
    assert is_asked()
    touch("more.yaml")
    assert is_asked()
    assert NOTHING not in finished.snakemake("--dry-run")  # the model is still missing


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "text"]},
        {"a": {1: "cat"}},
        {"a": date(2020, 1, 2)},
        {"a": OrderedDict({2: [date.min]})},
    ],
)
def test_tasks_keep_the_values_of_parameters(tmp_path, value):
    task = Task("train@rca-0/1", {"cmd": "true"}, {"params": value}, "/state")
    write_tasks(tmp_path, [task])
    assert read_task(tmp_path, task.name) == task


def test_retry_gives_up_with_a_sentence():
    from dvc.lock import LockError

    from rca.pipeline.dvc_patches import retry_locked

    def refuse():
        raise LockError("busy")

    with pytest.raises(UserError, match=r"kept DVC's lock for 0\.2 s: busy"):
        retry_locked(refuse, patience=0.2)


def test_leftovers_of_dead_processes_are_dropped(finished):
    from rca.pipeline.dvc_project import DvcProject

    project = DvcProject(finished.path)
    path = finished.path / ".dvc/tmp/rwlock"

    def write(pid: int, command: str) -> None:
        entry = {"pid": pid, "cmd": command}
        path.write_text(json.dumps({"write": {"/a": entry}, "read": {"/b": [entry]}}))

    write(os.getpid(), "dvc repro")
    with pytest.raises(UserError, match=f"process {os.getpid()} \\(dvc repro\\)"):
        project.files.check_idle()
    os.utime(path, (1e9, 1e9))  # now the pid must have been given away again
    project.files.check_idle()
    assert json.loads(path.read_text()) == {}

    child = subprocess.Popen(["true"])
    child.wait()
    write(child.pid, "dvc repro")
    project.files.check_idle()
    assert json.loads(path.read_text()) == {}

    write(child.pid, "rca-stage train@rca-0 on another-machine")
    with pytest.raises(UserError, match="train@rca-0 on another-machine"):
        project.files.check_idle()

    path.write_text('{"write": {"/a": {"pi')
    project.files.check_idle()
    assert json.loads(path.read_text()) == {}


def test_a_second_try_does_not_wait_for_a_machine_that_is_gone(tmp_path):
    files = FileList(tmp_path, patience=0.2)
    files.path.parent.mkdir(parents=True)
    gone = {"pid": 1, "cmd": "rca-stage train@rca-0 on another-machine"}
    files.path.write_text(json.dumps({"write": {"/model": gone}, "read": {"/images": [gone]}}))
    busy = r"/model is in use by process 1 \(rca-stage train@rca-0 on another-machine\)"
    with pytest.raises(UserError, match=busy), files.hold("score@rca-0-0", ["/model"], ["/scores"]):
        pass
    with files.hold("train@rca-0", ["/images"], ["/model"]):
        held = json.loads(files.path.read_text())
        assert held["write"]["/model"]["pid"] == os.getpid()
        assert held["read"] == {"/images": [held["write"]["/model"]]}
    assert json.loads(files.path.read_text()) == {}


def test_stages_are_resolved_with_their_files_and_resources(finished):
    stages = {stage.name: stage for stage in resolve_jobs(finished.path)}
    assert sorted(stages) == EVERYTHING
    table = stages["tabulate"]
    assert table.inputs == tuple(f"runs/{run}-0/scores/{shard}.txt" for run in ("cam", "rca") for shard in (0, 1))
    assert table.upstream == ("score@cam-0-0", "score@cam-0-1", "score@rca-0-0", "score@rca-0-1")
    train = stages["train@rca-0"]
    assert (train.inputs, train.outputs) == (("data/images",), ("runs/rca-0/model.txt",))
    assert train.log == "logs/train.rca-0.log"
    assert (train.gpu, train.mem_mb, train.runtime, train.threads) == (0, 100, 5, 1)  # two of them ${...}
    assert (train.shown, train.labels) == ({"runs/rca-0/model.txt": "training_curves"}, {"run": "rca", "seed": "0"})
    assert stages["prepare"].directories == ("data/images",)
    assert (stages["prepare"].shown, stages["prepare"].labels) == ({}, {})

    for name in (
        "runs/old-0/model.txt",
        "data/images/extra.txt",
        "logs/train.old-0.log",
        "logs/tabulate.log",
    ):
        (finished.path / name).parent.mkdir(parents=True, exist_ok=True)
        (finished.path / name).touch()
    leftovers = find_undeclared(finished.path, ["runs", "data", "results", "logs", "nowhere"])
    assert [path.as_posix() for path in leftovers] == ["logs/train.old-0.log", "runs/old-0/model.txt"]


def test_snakemake_reports_what_has_a_type(finished):
    text = finished.snakemake("--report", "report.zip")
    assert "(ERROR/" not in text  # what docutils says of a caption that is no reStructuredText
    with ZipFile(finished.path / "report.zip") as archive:
        page = archive.read("report/report.html").decode()
        found = json.loads(*re.findall(r"var results = ({.*});", page))
        categories = json.loads(*re.findall(r"var categories = ({.*});", page))
        models = [f"runs/{run}-0/model.txt" for run in ("cam", "rca")]
        assert sorted(found) == ["results/table.json", *models]
        for path, shown in found.items():
            assert archive.read(f"report/{shown['data_uri']}") == (finished.path / path).read_bytes()
    assert found[models[1]]["labels"] == {"file": "model.txt", "run": "rca", "seed": "0"}
    assert "train&#64;rca-0" in found[models[1]]["caption"]
    assert found["results/table.json"]["labels"] == {"file": "table.json"}
    in_categories = {name: sorted(*groups.values()) for name, groups in categories.items()}
    assert in_categories == {"Training curves": models, "Tables": ["results/table.json"]}


GOOD = {"resources": {"mem_mb": 100, "runtime": 5}}


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        (None, "meta.resources.mem_mb is missing"),
        ({"resources": {"mem_mb": 100}}, "meta.resources.runtime is missing"),
        ({**GOOD, "thread": 1}, "meta.thread is unknown"),
        ({**GOOD, "threads": 0}, "meta.threads must be a whole number of at least 1, not 0"),
        ({**GOOD, "threads": True}, "meta.threads must be a whole number of at least 1, not True"),
        ({"resources": {**GOOD["resources"], "gpus": 1}}, "meta.resources.gpus is unknown"),
        ({"resources": {**GOOD["resources"], "gpu": -1}}, "meta.resources.gpu must be a whole number"),
        (
            {"resources": {"mem_mb": "4 GB", "runtime": 5}},
            "meta.resources.mem_mb must be a whole number of at least 1, not '4 GB'",
        ),
        ({"resources": [1]}, r"meta.resources must be a mapping, not \[1\]"),
        ({**GOOD, "directories": ["a"]}, "meta.directories is unknown"),
        ({**GOOD, "labels": ["rca"]}, "meta.labels must map names to strings or numbers"),
        ({**GOOD, "labels": {"run": ["rca"]}}, "meta.labels must map names to strings or numbers"),
    ],
)
def test_bad_meta_is_refused(meta, sentence):
    with pytest.raises(UserError, match=f"Stage train@rca-0 in dvc.yaml: {sentence}"):
        read_meta("train@rca-0", meta, {})


def test_resources_come_from_the_list_of_instances_where_dvc_yaml_has_none(finished):
    finished.edit("dvc.yaml", "    meta: {resources: {mem_mb: 100, runtime: 5}}\n  tabulate", "  tabulate")
    with pytest.raises(UserError, match=r"Stage score@cam-0-0 in dvc.yaml: meta\.resources\.mem_mb is missing"):
        resolve_jobs(finished.path)
    (finished.path / "workflow/instances.yaml").write_text(
        "stages:\n  score: {runs: [cam], gpu: 1, mem_mb: 7, runtime: 8, threads: 3}\n"
        "  tabulate: {gpu: 1, mem_mb: 7, runtime: 8, threads: 3}\n"
    )
    jobs = {job.name: job for job in resolve_jobs(finished.path)}
    score, table = jobs["score@rca-0-1"], jobs["tabulate"]
    assert (score.gpu, score.mem_mb, score.runtime, score.threads) == (1, 7, 8, 3)
    assert (table.mem_mb, table.runtime) == (100, 5)  # what dvc.yaml says counts


def test_mistakes_are_one_sentence_in_the_terminal(finished, tmp_path):
    finished.edit("params.yaml", "gpu: 0", "gpu: -1")
    text = finished.snakemake(code=1)
    assert "Stage train@cam-0 in dvc.yaml: meta.resources.gpu must be a whole number of at least 0, not -1." in text
    assert "Traceback" not in text
    finished.edit("params.yaml", "gpu: -1", "gpus: 0")
    text = finished.snakemake(code=1)
    assert "Could not find 'gpu'" in text
    assert "Traceback" not in text
    (finished.path / ".git").rename(finished.path / "moved")
    text = finished.snakemake(code=1, GIT_CEILING_DIRECTORIES=str(finished.path.parent))
    assert f"DVC needs a git repository, but {finished.path} is not one: run `git init`." in text
    assert "Traceback" not in text
    (finished.path / "dvc.yaml").unlink()
    text = finished.snakemake(code=1)
    assert f"There is no dvc.yaml in {finished.path}: go to the project's root." in text
    assert "Traceback" not in text


def test_jobs_at_once_get_different_gpus(finished):
    finished.edit("params.yaml", "gpu: 0", "gpu: 1")
    finished.edit("params.yaml", "size: 3", "size: 4")
    finished.run("dvc", "repro", "-q", "--single-item", "--force", "prepare")
    for run, old in (("cam", 1), ("rca", 2)):
        finished.edit("params.yaml", f"{run}: {{rate: {old}}}", f"{run}: {{rate: 7}}")
    ledger = finished.outside / "ran"
    ledger.unlink()
    hold(finished, "train")
    process = finished.start("snakemake", "--cores", "2", "--resources", "gpu=2", CUDA_VISIBLE_DEVICES="0,1")
    wait_for_command(finished, "train@cam-0", "train@rca-0")
    assert sorted(line.split()[1] for line in ledger.read_text().splitlines()) == ["0", "1"]
    let_go(finished)
    text, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, text
    assert "score@rca-0-0 \n" in ledger.read_text()  # it asks for none and sees none

    ledger.unlink()
    finished.edit("params.yaml", "cam: {rate: 7}", "cam: {rate: 8}")
    plan(finished)
    start_job(finished, "train@cam-0", 1, CUDA_VISIBLE_DEVICES="5", SLURM_JOB_ID="1").communicate()
    assert ledger.read_text() == "train@cam-0 5\n"


def test_gpus_are_leased_waited_for_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    two = {"CUDA_VISIBLE_DEVICES": "GPU-1f, GPU-2e"}
    with lease_gpus(1, two) as first, lease_gpus(1, two) as second, ExitStack() as third:
        assert first == {"CUDA_VISIBLE_DEVICES": "GPU-1f"}
        assert second == {"CUDA_VISIBLE_DEVICES": "GPU-2e"}
        monkeypatch.setattr("time.sleep", lambda _: (_ for _ in ()).throw(InterruptedError("waits")))
        with pytest.raises(InterruptedError, match="waits"):
            third.enter_context(lease_gpus(1, two))
    with lease_gpus(2, two) as both:
        assert both == {"CUDA_VISIBLE_DEVICES": "GPU-1f,GPU-2e"}
    with pytest.raises(UserError, match="needs 3 GPUs, but this machine has 2"), lease_gpus(3, two):
        pass
    for hidden in ("", "-1"):
        with lease_gpus(1, {"CUDA_VISIBLE_DEVICES": hidden}) as variables:
            assert variables == {}


def test_gpus_are_counted_by_the_driver(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    with lease_gpus(1, {}), lease_gpus(1, {}) as second:
        assert second == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    with lease_gpus(0, {}) as variables:
        assert variables["CUDA_VISIBLE_DEVICES"] == ""

    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    with lease_gpus(1, {}) as variables:
        assert variables == {}


def test_jobs_on_other_machines_do_without_dvc(finished):
    finished.edit("params.yaml", "rate: 2", "rate: 3")
    hold(finished, "train")
    process = finished.start("snakemake", "--cores", "1")
    wait_for_command(finished, "train@rca-0")  # the plan lies there now
    blocker = finished.outside / "blocker"
    blocker.mkdir()
    (blocker / "dvc.py").write_text("raise RuntimeError('DVC was imported')")
    text = finished.run(
        *["snakemake", "--mode", "remote", "--cores", "1", "--nolock", "--dry-run", "--force"],
        *["--allowed-rules", "train_rca_0", "--target-jobs", "train_rca_0:", "--workflow-profile", "none"],
        PYTHONPATH=f"{blocker}:{ROOT}",
    )
    assert "Job 0: train@rca-0" in text
    let_go(finished)
    process.communicate(timeout=WAIT)
    assert process.returncode == 0


@pytest.mark.slow
def test_a_clone_with_its_data_has_nothing_to_do(finished, tmp_path):
    finished.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    finished.run("git", "commit", "-qam", "remote")
    finished.run("dvc", "push", "-q")
    finished.run("git", "clone", "-q", str(finished.path), str(tmp_path / "clone"))
    clone = type(finished)(tmp_path / "clone", finished.outside)
    clone.run("dvc", "pull", "-q")
    assert NOTHING in clone.snakemake()
    assert clone.list_ran() == []


@pytest.mark.slow
def test_snakemake_lints_and_reports(finished, tmp_path):
    text = finished.run("snakemake", "--lint", code=1)
    # The Snakefile itself imports rca: one environment, pinned by requirements.lock, serves all rules.
    titles = {line.strip() for line in text.splitlines() if line.strip().startswith("* ")}
    assert titles == {"* Specify a conda environment or container for each rule.:"}
    finished.snakemake("--report", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size > 0


def test_rule_names_are_legal():
    assert name_rule("train_cam@rca-0") == "train_cam_rca_0"
