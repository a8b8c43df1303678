"""Broken disks and files end a run with one sentence, and the run after it as if nothing had been."""

import sys
from subprocess import CalledProcessError

import pytest
from projects import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import broken
import engine_runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("engine", engine_runs.ENGINES)
@pytest.mark.parametrize("fault", broken.FAULTS, ids=lambda fault: f"{fault.name}, {fault.stage}")
def test_a_fault_is_one_sentence_and_a_rerun_succeeds(real_template, tmp_path, fault, engine):
    if fault.mounts:
        try:
            with broken.open_disk(tmp_path / "disk", True):
                pass
        except CalledProcessError:
            pytest.skip("file systems cannot be mounted here")
    sentence, wrong = broken.try_fault(fault, engine, real_template, tmp_path / "fault")
    assert wrong == []
    assert sentence
