"""A toy pipeline through a real Slurm, which hands out two pretended GPUs."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import GPUS, explain_refusal, install, start_cluster
from projects import build_toy, wait_until

REFUSAL = explain_refusal()
# profiles/slurm as it is, but no accounts and no accounting database, and no patience for a shared file system.
SNAKEMAKE = (
    *("snakemake", "--profile", "profiles/slurm", "--slurm-no-account", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "3", "--latency-wait", "5"),
)

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    install()
    with start_cluster() as folder:
        yield folder


def test_a_pipeline_goes_through_slurm(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    toy = build_toy(tmp_path)
    toy.edit("params.yaml", "gpu: 0", "gpu: 1")
    variables = {"SLURM_CONF": f"{cluster}/slurm.conf", "PATH": f"{cluster}/bin:{toy.environment['PATH']}"}
    (toy.outside / "wait").write_text("train")  # both trainings start, and wait
    process = toy.start(*SNAKEMAKE, **variables)
    started = [toy.outside / f"waiting-train@{run}-0" for run in ("cam", "rca")]
    wait_until(lambda: all(path.exists() for path in started) or process.poll() is not None, 180)
    ended = process.poll() is not None
    (toy.outside / "wait").unlink()
    text, _ = process.communicate(timeout=300)
    assert not ended, text
    assert process.returncode == 0, text

    notes = [line.split() for line in toy.take_notes()]
    assert sorted(device for stage, device in notes if stage.startswith("train")) == ["0", "1"]
    assert len(notes) == len({stage for stage, *_ in notes}) == 8
    assert "Data and pipelines are up to date." in toy.run("dvc", "status")
    assert "Nothing to be done" in toy.run(*SNAKEMAKE, **variables)
    assert toy.take_notes() == []


def count_leased(cluster: Path) -> int:
    """The GPUs that Slurm has given to jobs."""
    environment = {**os.environ, "SLURM_CONF": f"{cluster}/slurm.conf"}
    command = ["sinfo", "--noheader", "--Format=GresUsed:60"]
    used = subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout
    return sum(int(count) for count in re.findall(r"gpu(?:\(null\)|:\w+)?:(\d+)", used.replace("gpu:(null)", "gpu")))


def test_a_stage_of_two_gpus_is_one_task_with_both(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    toy = build_toy(tmp_path)
    toy.edit("params.yaml", "gpu: 0", f"gpu: {GPUS}")
    variables = {"SLURM_CONF": f"{cluster}/slurm.conf", "PATH": f"{cluster}/bin:{toy.environment['PATH']}"}
    (toy.outside / "wait").write_text("train")
    process = toy.start(*SNAKEMAKE, **variables)
    wait_until(lambda: list(toy.outside.glob("waiting-*")) or process.poll() is not None, 180)
    leased = []
    for _ in range(10):  # the other training is sent as well, and has to wait
        leased.append(count_leased(cluster))
        assert len(list(toy.outside.glob("waiting-*"))) == 1
        time.sleep(1)
    (toy.outside / "wait").unlink()
    while process.poll() is None:
        leased.append(count_leased(cluster))
        time.sleep(0.5)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert max(leased) == GPUS

    notes = [line.split() for line in toy.take_notes()]
    trainings = [(stage, devices) for stage, devices in notes if stage.startswith("train")]
    assert sorted(trainings) == [("train@cam-0", "0,1"), ("train@rca-0", "0,1")]  # once each, not once for each GPU
    assert len(notes) == len({stage for stage, *_ in notes}) == 8
