"""What a stage took, as it is written beside its log."""

import platform
import resource
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stages import run_stage, shrink_preset, write_params

from rca.core.files import read_json
from rca.core.machine import name_processor


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(shrink_preset(train=3, val=2))


def test_time_and_memory_of_a_stage() -> None:
    start = time.monotonic()
    assert run_stage("generate_data", item="shapes") == 0
    elapsed = time.monotonic() - start
    measured = read_json(Path("logs/generate_data.shapes.json"))
    assert 0 < measured.pop("seconds") <= elapsed + 0.01
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024**2
    assert measured.pop("memory_mb") >= 0.9 * resident  # a peak, so not below what is taken now
    assert measured.pop("gpu_memory_mb") is None
    assert (measured.pop("items"), measured.pop("item_seconds")) == (0, 0)  # it has no loop that shows its progress
    ended = datetime.fromisoformat(measured.pop("ended"))
    assert timedelta(0) <= datetime.now(UTC) - ended < timedelta(minutes=1)
    assert measured.pop("host") == platform.node()
    assert measured.pop("device") == name_processor()
    assert measured == {"dataset": "shapes", "stage": "generate_data", "run": None, "seed": None, "shard": None}


def test_the_items_of_a_stage() -> None:
    assert run_stage("generate_data", item="shapes") == run_stage("prepare_data") == 0
    measured = read_json(Path("logs/prepare_data.json"))
    assert measured["items"] == 5
    assert 0 < measured["item_seconds"] <= measured["seconds"] + 0.01


def test_a_stage_that_fails_is_not_measured() -> None:
    assert run_stage("prepare_data") == 2  # without a dataset
    assert Path("logs/prepare_data.log").is_file()
    assert not list(Path("logs").glob("*.json"))
