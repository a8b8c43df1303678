"""Assign GPUs to the jobs of one machine: Snakemake counts GPUs, but does not assign them."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pynvml

from rca.core.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
# Variables set in jobs of Slurm, PBS, LSF and Grid Engine, which assign GPUs themselves.
CLUSTERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


@contextmanager
def lease_gpus(count: int, environment: Mapping[str, str] = os.environ) -> Iterator[dict[str, str]]:
    """Reserve GPUs of this machine while the context lasts; the GPUs of a killed process become free.

    Args:
        count: Number of GPUs; with 0, the job sees none.
        environment: The environment variables, in which a user or a cluster may have set CUDA_VISIBLE_DEVICES.

    Yields:
        The variables to set for the job: none in a cluster's job or on a machine without GPUs.

    Raises:
        UserError: The machine has GPUs, but not enough.
    """
    devices = [] if any(name in environment for name in CLUSTERS) else list_devices(environment)
    if not devices:
        yield {}
        return
    if count > len(devices):
        raise UserError(f"The stage needs {count} GPUs, but this machine has {len(devices)}.")
    with ExitStack() as leases:
        leased = wait_for_devices(devices, count, leases) if count else []
        # CUDA numbers the fastest GPU first; this makes it use NVML's order.
        order = {} if VISIBLE in environment else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        yield {VISIBLE: ",".join(leased), **order}


def list_devices(environment: Mapping[str, str]) -> list[str]:
    """List the GPUs in CUDA_VISIBLE_DEVICES or, if it is not set, all GPUs of the driver."""
    if VISIBLE in environment:
        listed = (device.strip() for device in environment[VISIBLE].split(","))
        return [device for device in listed if device not in {"", "-1"}]
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:  # no driver
        return []
    return [str(index) for index in range(count)]


def wait_for_devices(devices: list[str], count: int, leases: ExitStack) -> list[str]:
    """Lock `count` of the GPUs, all or none, so that two waiting jobs cannot deadlock."""
    from filelock import FileLock, Timeout  # imported late: most jobs use no GPU

    folder = Path(tempfile.gettempdir(), f"rca-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    told = False
    while True:
        with ExitStack() as attempt:
            taken = []
            for device in devices:
                lock = FileLock(folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                attempt.callback(lock.release)
                taken.append(device)
                if len(taken) == count:
                    leases.push(attempt.pop_all())
                    return taken
        if not told:
            print(f"Waiting for {count} of the GPUs {','.join(devices)}.", file=sys.stderr)
            told = True
        time.sleep(0.5)
