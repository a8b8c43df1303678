"""A process ends with the program that started it, and with it what it has started itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from projects import is_running, wait_until

from rca.pipeline import orphans

CHILD = """
import pathlib, subprocess, sys, time
from rca.pipeline.orphans import end_with_starter
end_with_starter()
child = subprocess.Popen(["sleep", "600"])
pathlib.Path(sys.argv[1]).write_text(f"{__import__('os').getpid()} {child.pid}")
time.sleep(600)
"""
# An engine runs its commands in a shell, which here stays in between.
PARENT = "import subprocess, sys; subprocess.run(['sh', '-c', '\"$@\"; true', 'sh', *sys.argv[1:]])"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_an_engine_has_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    told = tmp_path / "told"
    engine = subprocess.Popen([sys.executable, "-c", PARENT, sys.executable, "-c", CHILD, str(told)])
    wait_until(lambda: told.exists() and told.read_text())
    started = [psutil.Process(int(pid)) for pid in told.read_text().split()]
    assert all(map(is_running, started))
    engine.send_signal(number)
    engine.wait()
    wait_until(lambda: not any(map(is_running, started)), 60)


def test_the_starter_is_no_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for process, name, parent in ((7, "bash", 6), (6, "sh", 5), (5, "a (b) c", 1), (4, "dash", 0)):
        (tmp_path / str(process)).mkdir()
        (tmp_path / str(process) / "stat").write_text(f"{process} ({name}) S {parent} 1 1")
    monkeypatch.setattr(orphans, "PROCESSES", tmp_path)
    for parent, expected in ((7, 5), (5, 5), (4, None), (3, None)):
        monkeypatch.setattr(os, "getppid", lambda parent=parent: parent)
        assert orphans.find_starter() == expected
