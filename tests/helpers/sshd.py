"""An SSH server of this machine's own, on loopback, for as long as a test runs."""

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import find_ports

SERVER = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")
CONFIGURATION = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/sshd.pid
PasswordAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


def explain_refusal() -> str | None:
    """Why no remote can be reached over SSH here; None if one can."""
    if importlib.util.find_spec("dvc_ssh") is None:
        return "DVC's remotes over SSH need the package dvc-ssh: `pip install dvc-ssh`"
    if SERVER is None or shutil.which("ssh-keygen") is None:
        return "no sshd is installed: `apt-get install openssh-server`"
    return None


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Path]]:
    """Start the server.

    Args:
        folder: For its files; it must be there.

    Yields:
        The start of a URL, to which an absolute path belongs, and the file of the key that the server knows.
    """
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (port,) = find_ports(1)
    (folder / "config").write_text(CONFIGURATION.format(port=port, folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)  # where it puts its unprivileged part
    log = folder / "log"
    server = subprocess.Popen([str(SERVER), "-D", "-f", folder / "config", "-E", log])
    try:
        give_up = time.monotonic() + 30
        while "listening" not in (log.read_text() if log.exists() else ""):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.05)
        yield f"ssh://{os.environ.get('USER', 'root')}@127.0.0.1:{port}", folder / "user"
    finally:
        server.terminate()
        server.wait()
