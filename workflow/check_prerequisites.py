"""Report what `make setup` still needs on this machine; runs on any Python 3.

python3 workflow/check_prerequisites.py
"""

import importlib.util
import os
import shutil
import sys
import sysconfig

SENTENCES = {
    "python": "Python 3.11 or newer is needed, this is "
    + sys.version.split()[0]
    + ": install it and run `make PYTHON=/path/to/python3.11 ...`.",
    "venv": "Python's venv module is missing: install it (Debian: apt-get install python3-venv).",
    "headers": "Python's C headers are missing: install them (Debian: apt-get install python3-dev).",
    "compiler": "A C++ compiler is missing: install one (Debian: apt-get install g++).",
    "git": "git is missing: install it (Debian: apt-get install git).",
}


def find_missing():
    """List the names of the missing prerequisites, in the order in which they matter."""
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    present = {
        "python": sys.version_info >= (3, 11),
        "venv": all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
        "headers": os.path.exists(header),
        "compiler": any(map(shutil.which, (os.environ.get("CXX", "c++"), "c++", "g++", "clang++"))),
        "git": shutil.which("git"),
    }
    return [name for name, there in present.items() if not there]


if __name__ == "__main__":
    missing = find_missing()
    for name in missing:
        sys.stderr.write(SENTENCES[name] + "\n")
    sys.exit(2 if missing else 0)
