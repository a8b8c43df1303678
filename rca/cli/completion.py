"""`rca completion`: a script that lets a shell complete commands, options, choices and files."""

import argparse
from collections.abc import Iterator

import shtab

from rca.cli.arguments import name_path
from rca.cli.parser import build_parser

FOLDERS = ("DIR", "FOLDER", "OUT", "MASKS")


def write_completion(shell: str) -> str:
    """The script, for "bash" or "zsh"."""
    parser = build_parser()
    for action in list_actions(parser):
        if action.type is name_path or action.metavar == "IMAGE":
            # The library looks for this attribute.
            action.complete = shtab.DIRECTORY if action.metavar in FOLDERS else shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(parser, shell)
    return script


def list_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of all commands below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from list_actions(command)
