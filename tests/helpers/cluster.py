"""A throw-away Slurm on this machine, with two pretended GPUs.

Everything of it but the installed packages lies in one folder: configuration, keys, sockets, logs. It uses ports that
were free, so a Slurm that already runs here is left alone. No container, no systemd and no name service is needed.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

PACKAGES = {"munge": "munged", "slurm-wlm": "slurmctld"}  # and a program of each
GPUS = 2

CONFIGURATION = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
# Processes are found through their parents, so that no control groups are needed.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
# Several jobs share the node, each with the cores, memory and devices that it asked for.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1
# Without an accounting database `squeue` alone tells how a job ended: it must not forget too soon.
MinJobAge=600
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def explain_refusal() -> str | None:
    """Why no Slurm can be set up here; None if it can."""
    if os.geteuid() != 0:
        return "a throw-away Slurm needs root: its daemons start jobs as other users"
    if list_lacking() and shutil.which("apt-get") is None:
        return f"{' and '.join(list_lacking())} are not installed, and there is no apt-get to install them with"
    return None


def list_lacking() -> list[str]:
    return [package for package, program in PACKAGES.items() if shutil.which(program) is None]


def install() -> None:
    """Install what is lacking, without starting any of it."""
    lacking = list_lacking()
    if not lacking:
        return
    # Debian starts a service once it is installed unless this program says no.
    policy = Path("/usr/sbin/policy-rc.d")
    with ExitStack() as stack:
        if not policy.exists():
            stack.callback(policy.unlink)
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *lacking]):
            variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(["apt-get", "-qq", *command], env=variables, text=True, capture_output=True)
            assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def start_cluster() -> Iterator[Path]:
    """Start munge, the controller and the node; stop them and remove their files in the end, come what may.

    Yields:
        The cluster's folder: `slurm.conf` in it is for SLURM_CONF, and `bin` belongs in front of PATH.
    """
    with ExitStack() as stack:
        # Not below pytest's own folders: others than root must reach munge's socket, whose path must be short.
        folder = Path(tempfile.mkdtemp(prefix="rca-slurm-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        configuration = write_configuration(folder)
        environment = {**os.environ, "SLURM_CONF": str(configuration)}

        start(stack, folder, list_munge_command(folder), environment)
        wait_for(lambda: (folder / "munge.socket").exists(), folder, "munged")
        start(stack, folder, ["slurmctld", "-D", "-f", str(configuration)], environment)
        start(stack, folder, ["slurmd", "-D", "-f", str(configuration)], environment)

        def ask(*command: str) -> str:
            return subprocess.run(command, env=environment, text=True, capture_output=True).stdout

        wait_for(
            lambda: ask("sinfo", "--noheader", "--format=%t %G").split() == ["idle", f"gpu:{GPUS}"], folder, "node"
        )
        stack.callback(cancel_jobs, ask)
        yield folder


def write_configuration(folder: Path) -> Path:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    for number in range(GPUS):
        (folder / f"gpu{number}").symlink_to("/dev/null")  # any device will do where no control groups fence it off
    key = folder / "munge.key"
    key.touch(mode=0o400)
    key.write_bytes(os.urandom(128))
    host = socket.gethostname().partition(".")[0]
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    (folder / "cgroup.conf").touch()
    # Snakemake's plugin takes every variable of Slurm's away from `srun`, this one included.
    (folder / "bin").mkdir()
    srun = folder / "bin/srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    configuration = folder / "slurm.conf"
    text = CONFIGURATION.format(
        host=host,
        folder=folder,
        ports=find_ports(2),
        cores=os.cpu_count(),
        # A node that turns out smaller than it was announced takes no jobs.
        memory=psutil.virtual_memory().total // 2**20 - 512,
        gpus=GPUS,
    )
    configuration.write_text(text)
    return configuration


def find_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def list_munge_command(folder: Path) -> list[str]:
    files = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
    return ["munged", "--foreground", *(f"--{option}={folder}/munge.{suffix}" for option, suffix in files.items())]


def start(stack: ExitStack, folder: Path, command: list[str], environment: dict[str, str]) -> None:
    """Start a daemon that the stack stops."""
    log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    stack.callback(stop, process)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cancel_jobs(ask) -> None:
    """Cancel what still runs and wait until it has gone: jobs outlive the daemons otherwise."""
    ask("scancel", "--user=root")
    give_up = time.monotonic() + 60
    while ask("squeue", "--noheader", "--states=RUNNING,COMPLETING").strip() and time.monotonic() < give_up:
        time.sleep(0.5)


def wait_for(condition, folder: Path, what: str) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        logs = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log")))
        assert time.monotonic() < give_up, f"{what} did not come up:\n{logs}"
        time.sleep(0.5)
