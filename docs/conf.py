"""How Sphinx builds the site: the Markdown pages, and the docstrings of every module of `rca`."""

import os
import re
from pathlib import PurePosixPath

from sphinx.application import Sphinx

project = "rca"
extensions = ["sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build", "api/modules.rst"]
html_theme = "furo"
html_show_copyright = False
myst_heading_anchors = 3

# One page for each package, written from the package's files before each build: there is no list to keep.
apidoc_modules = [{"path": "../rca", "destination": "api", "module_first": True, "max_depth": 2}]
os.environ["SPHINX_APIDOC_OPTIONS"] = "members,show-inheritance"  # not `undoc-members`, the default
autodoc_preserve_defaults = True  # print defaults as the code has them: the value of os.environ is private
add_module_names = False
napoleon_use_ivar = True  # a class's "Attributes" are its one list of them
python_maximum_signature_line_length = 100

# Pages of the site that are files elsewhere in the repository.
INCLUDED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}


def point_links(text: str, folder: str) -> str:
    """Rewrite relative links of a page in `folder`, which hold in the repository, to hold on the site."""

    def rewrite(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        target = os.path.normpath(os.path.join(folder, path))
        if target in INCLUDED:
            return f"]({INCLUDED[target]}{anchor})"
        if PurePosixPath(target).parts[0] == "rca":
            return f"]({target.removesuffix('.py').replace('/', '.')})"  # the module's place among the docstrings
        return f"]({os.path.relpath(target, 'docs')}{anchor})"

    return re.sub(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", rewrite, text)


def read_page(app: Sphinx, name: str, content: list[str]) -> None:
    """Rewrite the links of a page in docs/."""
    if not name.startswith("api/"):
        content[0] = point_links(content[0], "docs")


def read_included(app: Sphinx, path: PurePosixPath, parent: str, content: list[str]) -> None:
    """Rewrite the links of a page elsewhere in the repository."""
    content[0] = point_links(content[0], os.path.normpath(os.path.join("docs", path.parent)))


def read_docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn a docstring's Markdown into reStructuredText: backticks mark code, other signs stand for themselves."""

    def rewrite(match: re.Match[str]) -> str:
        code, letter = match[1], match[2]
        return f"``{code}``" + ("\\ " if letter else "") if code else f"\\{match[0]}"

    lines[:] = re.sub(r"`([^`]+)`(?=(\w?))|[*|](?=\S)|(?<=\w)_(?!\w)", rewrite, "\n".join(lines)).split("\n")
    if what in ("attribute", "data", "property"):
        lines.insert(0, "\\")  # nothing, or napoleon would take the first line up to a colon for a type


def skip_generated(app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """Leave out what pydantic and named tuples add to a class."""
    generated = name == "model_config" or (thing.__doc__ or "").startswith("Alias for field number")
    return True if generated else None


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", read_page)
    app.connect("include-read", read_included)
    app.connect("autodoc-skip-member", skip_generated)
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # before napoleon's 500
