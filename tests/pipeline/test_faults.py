"""Broken disks and files end a run with one sentence, and the run after it as if nothing had been."""

import sys

import pytest
from projects import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import broken
import faults

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("engine", faults.ENGINES)
@pytest.mark.parametrize("fault", broken.FAULTS, ids=lambda fault: f"{fault.name}, {fault.stage}")
def test_a_fault_is_one_sentence_and_a_rerun_succeeds(real_template, tmp_path, fault, engine):
    if fault.mounts:
        try:
            with broken.open_disk(tmp_path / "disk", True):
                pass
        except faults.subprocess.CalledProcessError:
            pytest.skip("file systems cannot be mounted here")
    sentence, wrong = faults.try_fault(fault, engine, real_template, tmp_path / "fault")
    assert wrong == []
    assert sentence
