"""What pyproject.toml cannot say: one file goes beside the installed packages, wherever this Python keeps them.

It makes the command `dvc` write dvc.lock whole or not at all, see rca/pipeline/whole_lock.py.
"""

import os
import sys
import sysconfig

from setuptools import Distribution, setup

PACKAGES = os.path.relpath(sysconfig.get_path("purelib"), sys.prefix)


class WithData(Distribution):
    """A distribution whose data files are installed with `pip install --editable`, too."""

    def has_data(self) -> bool:
        """What setuptools asks there; it has the answer under another name."""
        return bool(self.has_data_files())


setup(distclass=WithData, data_files=[(PACKAGES, ["workflow/rca_whole_lock.pth"])])
