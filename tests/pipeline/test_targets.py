"""Stages by their names on Snakemake's command line: a name stands for all instances of the stage."""

from pathlib import Path

import pytest
from projects import Toy

from rca.core.errors import UserError
from rca.pipeline.resolve import Job
from rca.pipeline.targets import check_words, find_named, group_jobs

SCORES = ["score@cam-0-0", "score@cam-0-1", "score@rca-0-0", "score@rca-0-1"]
TRAININGS = ["train@cam-0", "train@rca-0"]


@pytest.mark.parametrize("options", [["train"], ["--until", "train"]])
def test_a_stage_runs_with_all_its_instances_and_what_they_need(toy: Toy, options: list[str]) -> None:
    toy.snakemake(*options)
    assert toy.list_ran() == ["prepare", *TRAININGS]


def test_a_stage_is_left_out_with_what_follows(toy: Toy) -> None:
    toy.snakemake("--omit-from", "score")
    assert toy.list_ran() == ["prepare", *TRAININGS]


def test_a_stage_is_run_again_although_nothing_changed(finished: Toy) -> None:
    lock = (finished.path / "dvc.lock").read_bytes()
    finished.snakemake("-R", "score", "--until", "score")
    assert finished.list_ran() == SCORES
    assert "Nothing to be done" in finished.snakemake()
    assert finished.list_ran() == []
    assert (finished.path / "dvc.lock").read_bytes() == lock


def test_a_forced_target_alone_is_run_again(finished: Toy) -> None:
    finished.snakemake("--force", "runs/rca-0/model.txt")
    assert "train@rca-0" in finished.list_ran()
    assert "Nothing to be done" in finished.snakemake()


def test_an_unknown_name_is_an_error_of_snakemake(toy: Toy) -> None:
    assert "banana" in toy.snakemake("banana", code=1)
    assert toy.list_ran() == []


def test_a_stage_that_is_switched_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "instances.yaml"
    path.write_text("stages:\n  train_seg: {runs: []}\n")
    with pytest.raises(UserError, match="The stage train_seg has nothing to do: "):
        check_words(["train_seg"], [], path)
    check_words(["train_seg"], [make_job("train_seg@cam-0")], path)
    check_words(["train", "stages", "seg.*"], [], path)


def test_a_name_and_its_beginning_are_two_stages() -> None:
    jobs = [make_job(name) for name in ("make_cam@cam-0", "make_cam@rca-0", "make_cam_again@cam-0", "tabulate")]
    assert find_named({"make_cam"}, jobs) == {"make_cam@cam-0", "make_cam@rca-0"}
    assert find_named({"make_cam_cam_0", "tabulate"}, jobs) == {"make_cam@cam-0", "tabulate"}
    assert {stage: len(group) for stage, group in group_jobs(jobs).items()} == {"make_cam": 2, "make_cam_again": 1}


def make_job(name: str) -> Job:
    """A job of which only the name counts."""
    empty: dict[str, object] = dict.fromkeys(Job.__dataclass_fields__, ())
    return Job(**{**empty, "name": name})  # type: ignore[arg-type]
