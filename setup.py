"""What pyproject.toml cannot say: what is installed besides the package's own files.

The project's files (dvc.yaml, Snakefile, ...) are in the wheel as `rca/project`. They stay where a project has them, at
the top of the repository, and exist once. And one file goes beside the installed packages, wherever this Python keeps
them: it makes the command `dvc` write dvc.lock whole or not at all, see rca/pipeline/whole_lock.py.
"""

import os
import sys
import sysconfig

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

FILE = "workflow/rca_whole_lock.pth"
PACKAGES = os.path.relpath(sysconfig.get_path("purelib"), sys.prefix)
PROJECT = "rca.project"
EDITABLE = "editable_wheel" in sys.argv


class BuildPackages(build_py):
    """Builds the packages, and puts the file beside them in a wheel, which any Python may install."""

    def run(self):
        """Build as always, and copy the file."""
        super().run()
        if not self.editable_mode:
            self.copy_file(FILE, self.build_lib)

    def find_package_modules(self, package, package_dir):
        """List the modules of a package, but take no code from the top of the repository, where this file lies."""
        return [] if package == PROJECT else super().find_package_modules(package, package_dir)


class WithData(Distribution):
    """A distribution whose data files are installed with `pip install --editable`, which is for this Python."""

    def has_data(self):
        """What setuptools asks there; it has the answer under another name."""
        return bool(self.has_data_files())


setup(
    distclass=WithData,
    cmdclass={"build_py": BuildPackages},
    packages=[*find_packages(include=["rca", "rca.*"]), PROJECT],
    package_dir={PROJECT: "."},
    package_data={
        "rca": ["report/*", "exporting/*.jinja", "py.typed"],
        PROJECT: [
            "dvc.yaml",
            "Snakefile",
            ".dvcignore",
            ".dvc/plots/*.json",
            "profiles/*/config.yaml",
            "workflow/captions/*.rst",
            "workflow/presets/*.yaml",
            "workflow/presets/published/*.yaml",
            "workflow/project/*",
        ],
    },
    data_files=[(PACKAGES, [FILE])] if EDITABLE else [],
    include_package_data=False,
)
