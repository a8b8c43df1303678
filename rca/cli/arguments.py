"""The parser of `rca`, and the kinds of its arguments."""

import argparse
import re
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn


class ShowVersion(argparse.Action):
    """Print the version, which takes time to find out, only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it and exit."""
        from importlib.metadata import version

        print(f"rca {version('rca')}")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest command or choice beside an unknown one."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with code 2."""
        unknown = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        near = unknown and get_close_matches(unknown[1], re.findall(r"[\w-]+", unknown[2]), n=1)
        if message.endswith("required: COMMAND"):
            message += " (`rca --help` lists them)"
        super().error(f"{message}: {near[0]}?" if near else message)


def count(text: str) -> int:
    """A number of things, at least one."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no number of things: name 1 or more")
    return int(text)


def count_or_none(text: str) -> int:
    """A number of things that may be 0."""
    return 0 if text == "0" else count(text)


def name_path(name: str) -> Path:
    """The path that an argument names; "" would name the current folder, and comes of a variable that is not set."""
    if not name.strip():
        raise argparse.ArgumentTypeError("the name is empty: is a variable not set?")
    return Path(name)
