"""`rca run`: what it makes of Snakemake's events, what it shows, and a run of a toy pipeline under it."""

import io
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from projects import ROOT, Toy, build_toy, wait_until
from rich.console import Console

from rca.cli import run as running
from rca.cli import view
from rca.cli.jobs import Jobs, format_time, locate, read_times, simulate
from rca.cli.run import read_events, run_pipeline
from rca.cli.view import LiveView, PlainView, choose_view, group_jobs, of_run
from rca.core.errors import UserError
from rca.core.progress import STATUS, note, track
from rca.pipeline.events import EventFile, report_events
from rca.pipeline.plan import load_plan
from rca.pipeline.resolve import Job, resolve_jobs


def make_job(name: str, upstream: Sequence[str] = (), threads: int = 1, gpu: int = 0, options: str = "") -> Job:
    log = f"logs/{name.replace('@', '.')}.log"
    stage = name.partition("@")[0]
    command = f"python -m rca.stages {stage} {options}".strip()
    return Job(name, command, (), (name,), (), gpu, 1, 1, threads, log, tuple(upstream), {}, {})


SHARDS = [
    make_job(f"make_cam@rca-0-{n}", ["train_cam@rca-0"], options=f"--run rca --seed 0 --shard {n}") for n in (0, 1)
]
TRAIN = make_job("train_cam@rca-0", gpu=1, options="--run rca --seed 0")
JOBS = {job.name: job for job in (TRAIN, *SHARDS)}


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.chdir(tmp_path)
    return Jobs(JOBS, set(JOBS), {})


def begin(jobs: Jobs, name: str, number: int, when: float) -> None:
    jobs.take({"event": "job_info", "job": number, "name": name, "time": when})


def end(jobs: Jobs, number: int, when: float, event: str = "job_finished") -> str | None:
    return jobs.take({"event": event, "job": number, "time": when})


# --- jobs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "stage"),
        ("--item classifier", "stage classifier"),
        ("--run cam --seed 0", "stage cam, seed 0"),
        ("--run 'a run' --seed 3 --shard 12", "stage a run, seed 3, shard 12"),
    ],
)
def test_a_job_is_named_by_the_options_of_its_command(options: str, words: str) -> None:
    assert locate(make_job("stage@some-thing-0", options=options)).words == words


def test_events_move_jobs_on(jobs: Jobs) -> None:
    begin(jobs, "train_cam@rca-0", 7, 100.0)
    assert list(jobs.running) == ["train_cam@rca-0"]
    assert jobs.waiting == {job.name for job in SHARDS}
    assert end(jobs, 9, 101.0) is None  # of a job that nobody announced
    assert end(jobs, 7, 130.0) == "train_cam@rca-0"
    assert jobs.done == {"train_cam@rca-0": 30.0}
    begin(jobs, "make_cam@rca-0-0", 8, 130.0)
    assert end(jobs, 8, 131.0, "job_error") == "make_cam@rca-0-0"
    assert jobs.failed == ["make_cam@rca-0-0"]
    begin(jobs, "make_cam@rca-0-0", 8, 132.0)  # a second try
    end(jobs, 8, 140.0)
    assert jobs.failed == []
    assert jobs.done["make_cam@rca-0-0"] == 8.0


def test_time_left_is_that_of_the_share_or_of_earlier_runs(jobs: Jobs) -> None:
    begin(jobs, "train_cam@rca-0", 7, 100.0)
    train = jobs.running["train_cam@rca-0"]
    assert jobs.estimate_left(train, 130.0) is None
    train.share = 0.25
    assert jobs.estimate_left(train, 130.0) == pytest.approx(90.0)
    train.share = None
    jobs.before = {"train_cam@rca-0": 50.0, "make_cam@cam-3-0": 12.0}
    assert jobs.estimate_left(train, 130.0) == pytest.approx(20.0)
    assert jobs.estimate("make_cam@rca-0-1") == 12.0  # of another job of this stage
    assert jobs.estimate_all(cores=1, gpus=1, now=130.0) == (pytest.approx(20.0 + 12.0 + 12.0), True)
    assert jobs.estimate_all(cores=2, gpus=1, now=130.0) == (pytest.approx(20.0 + 12.0), True)
    jobs.before = {"train_cam@rca-0": 50.0}
    assert jobs.estimate_all(cores=2, gpus=1, now=130.0) == (pytest.approx(20.0), False)


def test_jobs_that_share_cores_take_as_long_as_they_must() -> None:
    """Bounds that hold for any schedule without idle cores: the longest path, the work, and Graham's sum of both."""
    draw = random.Random(0)
    for _ in range(60):
        names = [f"job{number}" for number in range(draw.randint(1, 9))]
        jobs = [make_job(name, draw.sample(names[:at], draw.randint(0, min(at, 3)))) for at, name in enumerate(names)]
        seconds = {name: draw.uniform(1, 20) for name in names}
        path: dict[str, float] = {}
        for job in jobs:
            path[job.name] = seconds[job.name] + max((path[name] for name in job.upstream), default=0.0)
        longest, work = max(path.values()), sum(seconds.values())
        for cores in (1, 2, 3):
            taken = simulate(jobs, seconds, set(), cores, 0)
            assert max(longest, work / cores) - 1e-9 <= taken <= work / cores + longest + 1e-9
        assert simulate(jobs, seconds, set(), 1, 0) == pytest.approx(work)
        assert simulate(jobs, seconds, set(), len(names), 0) == pytest.approx(longest)


def test_gpus_are_shared_and_a_job_that_needs_more_than_there_are_runs_alone() -> None:
    jobs = [make_job("a", gpu=1), make_job("b", gpu=1), make_job("c", gpu=4)]
    assert simulate(jobs, dict.fromkeys("abc", 10.0), set(), 8, 2) == 20.0
    assert simulate(jobs, dict.fromkeys("abc", 10.0), {"a", "b"}, 8, 1) == 20.0


def test_earlier_times_are_those_of_the_last_run_or_of_the_logs(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/train_cam.rca-0.json").write_text('{"seconds": 3.5}')
    (tmp_path / "logs/make_cam.rca-0-0.json").write_text("broken")
    assert read_times(JOBS.values()) == {"train_cam@rca-0": 3.5}
    jobs.done["train_cam@rca-0"] = 4.5
    (tmp_path / ".rca").mkdir()
    running.save_times(jobs)
    assert read_times(JOBS.values()) == {"train_cam@rca-0": 4.5}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (7500, "2 h 05 min")]
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


# --- events and progress


def test_the_events_of_jobs_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    running.EVENTS.parent.mkdir()
    monkeypatch.setenv("RCA_EVENTS", str(running.EVENTS))
    logger = logging.getLogger("snakemake.logging")
    before = list(logger.handlers)
    report_events()
    try:
        logger.error("hello")  # no event
        logger.error("", extra={"event": "job_info", "jobid": 3, "rule_msg": "train_cam@rca-0", "input": ["x"]})
        logger.error("", extra={"event": "job_finished", "job_id": 3})
    finally:
        for handler in [handler for handler in logger.handlers if handler not in before]:
            assert isinstance(handler, EventFile)
            logger.removeHandler(handler)
    events, position = read_events(0)
    assert [(event["event"], event["job"], event.get("name")) for event in events] == [
        ("job_info", 3, "train_cam@rca-0"),
        ("job_finished", 3, None),
    ]
    assert read_events(position) == ([], position)
    with running.EVENTS.open("a") as file:
        file.write('{"event": "progress", ')  # not whole yet
    assert read_events(position) == ([], position)
    with running.EVENTS.open("a") as file:
        file.write('"done": 1}\n')
    assert [event["done"] for event in read_events(position)[0]] == [1]


def test_a_loop_notes_how_far_it_is(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".rca/progress/train_cam.rca-0.json"
    path.parent.mkdir(parents=True)
    monkeypatch.setenv(STATUS, str(path))
    monkeypatch.setattr("rca.core.progress.SECONDS_BETWEEN_NOTES", 0.0)
    begin(jobs, "train_cam@rca-0", 1, time.time() - 30)
    train = jobs.running["train_cam@rca-0"]
    train.look()
    assert train.share is None
    shares = []
    for _ in track(range(4), "epoch 3", 4, part=(2, 10)):
        train.look()
        shares.append(train.share)
    train.look()
    assert [*shares[1:], train.share] == pytest.approx([0.225, 0.25, 0.275, 0.3])
    assert (train.label, train.device) == ("epoch 3", "cpu")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


# --- views


def test_a_plain_line_covers_the_seeds_and_shards_of_a_stage(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PlainView(jobs, 2, 1)
    for number, name in enumerate(JOBS):
        begin(jobs, name, number, 0.0)
        end(jobs, number, 5.0)
    lines = [plain.finish(name) for name in ("train_cam@rca-0", "make_cam@rca-0-1")]
    assert lines == ["train_cam rca: 5 s", "make_cam rca (2 jobs): 10 s"]
    del jobs.done["make_cam@rca-0-0"]
    assert plain.finish("make_cam@rca-0-1") is None


def test_plain_lines_on_what_runs_become_rare(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1000.0, 10.0)  # each look takes ten seconds
    monkeypatch.setattr(view.time, "time", lambda: next(clock))
    begin(jobs, "train_cam@rca-0", 1, 1000.0)
    plain = PlainView(jobs, 2, 1)
    for _ in range(2000):
        plain.refresh()
    lines = capsys.readouterr().out.splitlines()
    assert 5 <= len(lines) <= 30
    assert all("running: train_cam rca, seed 0" in line for line in lines)


def test_a_terminal_shows_each_running_job(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveView(jobs, 2, 1)
    screen = io.StringIO()
    live.console = live.live.console = Console(file=screen, force_terminal=True, width=100, height=20, highlight=False)
    now = time.time()
    begin(jobs, "make_cam@rca-0-0", 1, now - 10)
    begin(jobs, "make_cam@rca-0-1", 2, now - 10)
    path = tmp_path / ".rca/progress/make_cam.rca-0-1.json"
    path.parent.mkdir(parents=True)
    monkeypatch.setenv(STATUS, str(path))
    note("score maps", 0.5)
    with live.open():
        live.refresh()
        live.tell("train_cam rca, seed 0: [5] s")
    text = screen.getvalue()
    assert "train_cam rca, seed 0: [5] s" in text  # brackets are no markup
    assert "make_cam rca, seed 0, shard 1" in text
    assert " 50 % score maps" in text
    assert "10 s left" in text
    assert "0 of 3 jobs done" in text


@pytest.mark.parametrize(
    ("term", "ci", "kind"), [("xterm", None, LiveView), ("dumb", None, PlainView), ("xterm", "1", PlainView)]
)
def test_the_view_fits_the_terminal(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, term: str, ci: str | None, kind: type
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("CI", raising=False)
    if ci:
        monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert type(choose_view(jobs, 1, 1)) is kind
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert type(choose_view(jobs, 1, 1)) is PlainView


# --- a whole run


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "cache"))
    toy = build_toy(tmp_path)
    monkeypatch.chdir(toy.path)
    for name, value in toy.environment.items():
        monkeypatch.setenv(name, value)
    return toy


def test_a_run_shows_its_jobs_and_a_second_has_nothing_to_do(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    run_pipeline(2, 1, verbose=False, check=False, engine=[])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "8 of 8 jobs to run, on 2 cores; the engine's log: logs/snakemake.log"
    stages = [line.split(":")[0] for line in lines[1:-1]]
    assert stages[0] == "prepare"
    assert sorted(stages) == ["prepare", "score (4 jobs)", "tabulate", "train (2 jobs)"]
    assert lines[-1].startswith("8 jobs done in ")
    assert "9 of 9 steps (100%) done" in Path("logs/snakemake.log").read_text()  # with the rule all
    assert set(read_times(load_plan(Path()).jobs)) == {job.name for job in load_plan(Path()).jobs}
    run_pipeline(2, 1, verbose=False, check=False, engine=[])
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 jobs done in ")


def test_a_stage_that_fails_is_named_with_its_reason(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    (toy.outside / "fail").write_text("train@rca-0")
    with pytest.raises(UserError, match=r"The run stopped; its log is logs/snakemake.log"):
        run_pipeline(1, 1, verbose=False, check=False, engine=["train", "--keep-going"])  # a target may come first
    printed = capsys.readouterr().out
    (failed,) = [line for line in printed.splitlines() if line.startswith("FAILED")]
    assert failed.startswith("FAILED train@rca-0: ")
    assert failed.endswith("(log: logs/train.rca-0.log)")
    assert printed.splitlines()[-1].endswith(", 1 failed.")


def test_an_error_before_the_first_job_is_shown(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    toy.edit("dvc.yaml", "outs: [data/images:", "outz: [data/images:")
    with pytest.raises(UserError, match="The run stopped"):
        run_pipeline(1, 1, verbose=False, check=False, engine=[])
    assert "outz" in capsys.readouterr().err


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_run_that_is_stopped_stops_its_jobs(toy: Toy, number: int) -> None:
    (toy.outside / "wait").write_text("train@cam-0")
    # What is started in the background, as this test may be, ignores interrupts.
    command = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    command += "from rca.cli.run import run_pipeline; run_pipeline(1, 1, False, False, [])"
    process = toy.start(sys.executable, "-c", command)
    wait_until(lambda: (toy.outside / "waiting-train@cam-0").exists())
    os.kill(process.pid, number)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Stopped. `rca run` goes on where it stopped." in text
    (toy.outside / "wait").unlink()
    toy.take_notes()
    toy.snakemake()
    assert "prepare" not in toy.list_ran()


def test_without_a_project_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"There is no params.yaml here"):
        run_pipeline(None, None, verbose=False, check=True, engine=[])


def test_what_the_check_finds_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seeds: [0]\n")
    with pytest.raises(UserError, match=r"params.yaml: dataset is missing"):
        run_pipeline(1, 1, verbose=False, check=True, engine=[])
    assert not Path(".snakemake").exists()


# --- start-up


START = """
import json, resource, sys
sys.argv = ["rca", *sys.argv[1:]]
from rca.cli.main import main
try:
    main()
except SystemExit:
    pass
usage = resource.getrusage(resource.RUSAGE_SELF)
slow = {"torch", "dvc", "snakemake", "torchvision", "pandas", "rich"} & set(sys.modules)
print(json.dumps([sorted(slow), usage.ru_utime + usage.ru_stime]))
"""


@pytest.mark.parametrize(("command", "most"), [("--help", 0.3), ("show", 0.5)])
def test_help_and_table_load_nothing_slow(tmp_path: Path, command: str, most: float) -> None:
    (tmp_path / "params.yaml").write_text("dataset: {name: mine}\n")
    (tmp_path / "results/mine").mkdir(parents=True)
    (tmp_path / "results/mine/table.md").write_text("| run |\n")
    times = []
    for _ in range(3):  # the least of three, since other processes share the caches of the processor
        done = subprocess.run([sys.executable, "-c", START, command], cwd=tmp_path, capture_output=True, text=True)
        slow, seconds = json.loads(done.stdout.splitlines()[-1])
        assert slow == [], done.stderr
        times.append(seconds)
    assert min(times) < most


def test_the_pipeline_of_the_repository_prints_few_lines() -> None:
    """`make run` prints these, four on check, start and end, some on what runs, and the table."""
    known = {job.name: job for job in resolve_jobs(ROOT)}
    assert len(known) > 50
    assert len(group_jobs(Jobs(known, set(known), {}), of_run)) <= 30
    assert "@rca run " in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("devices", "asked", "seen", "shared"),
    [("0,1", None, "0,1", 2), ("0,1", 1, "0,1", 1), ("0,1", 0, "", 8), ("", None, "", 8)],
)
def test_no_gpus_are_used_if_none_are_asked_for(
    devices: str, asked: int | None, seen: str, shared: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def note_command(command: list[str]) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    monkeypatch.setattr(running.subprocess, "run", note_command)
    run_pipeline(cores=8, gpus=asked, verbose=True, check=False, engine=())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen  # as the jobs inherit it
    assert f"gpu={shared}" in commands[0]
