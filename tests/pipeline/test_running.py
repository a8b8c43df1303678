"""One Snakemake at a time, and what a killed one left goes."""

import os
import signal

import pytest
from projects import wait_until

from rca.core.errors import UserError
from rca.pipeline.running import HOLDER, hold_project


def test_a_killed_snakemake_leaves_neither_lock_nor_process_nor_folder(toy):
    (toy.outside / "wait").write_text("train")
    process = toy.start("snakemake", "--cores", "2")
    wait_until(lambda: (toy.outside / "waiting-train@rca-0").exists())
    text = toy.snakemake(code=1)
    assert f"The pipeline is running: process {process.pid} (snakemake) in {toy.path}; wait for it or stop it." in text
    assert [path.name for path in toy.outside.glob("snakemake*")]
    os.kill(process.pid, signal.SIGKILL)  # its jobs live, until they see it
    process.communicate()  # which waits for their end: they have its output open
    (toy.outside / "wait").unlink()
    toy.snakemake()
    assert not list(toy.outside.glob("snakemake*"))
    assert "Data and pipelines are up to date." in toy.run("dvc", "status")


def test_only_folders_of_snakemake_are_removed(tmp_path):
    mine, others = tmp_path / "mine", tmp_path / "snakemake-old"
    for left, text in ((mine, f'{{"temporary": "{mine}"}}'), (others, f'{{"temporary": "{others}"}}'), (mine, "{")):
        left.mkdir(exist_ok=True)
        root = tmp_path / f"root-{left.name}-{len(text)}"
        (root / HOLDER).parent.mkdir(parents=True)
        (root / HOLDER).write_text(text)
        hold_project(root, tmp_path / "new")
        with pytest.raises(UserError, match=f"process {os.getpid()} "):
            hold_project(root, tmp_path / "new")
    assert mine.exists()
    assert not others.exists()
