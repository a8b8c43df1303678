"""Write docs/commands.md, the page of every command of `rca` and its arguments: `python docs/list_commands.py`.

All of it comes from the parser that reads the command line.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from rca.cli.parser import build_parser
from rca.stages.base.names import list_stages

PAGE = Path(__file__).with_name("commands.md")
INTRODUCTION = """\
# Every command

Written by `python docs/list_commands.py` from the parser of `rca`. `rca COMMAND --help` prints the same, and
`python -m rca` is another name for `rca`. Bad input ends with one sentence and exit code 2.
"""
STAGES = """\
## `rca STAGE`

Runs one instance of a stage by hand, with the settings of `params.yaml`; DVC does not record it. The
stages are {stages}.
"""


def find_commands(parser: argparse.ArgumentParser) -> argparse._SubParsersAction | None:
    """What holds the commands below a parser; None if it has none."""
    return next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)


def walk(parser: argparse.ArgumentParser, meaning: str) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """A command and what it does, or those below it."""
    commands = find_commands(parser)
    if commands is None:
        yield parser, parser.description or meaning
        return
    meanings = {action.dest: action.help or "" for action in commands._choices_actions}
    for name, inner in commands.choices.items():
        if name not in list_stages():
            yield from walk(inner, meanings[name])


def name_argument(action: argparse.Action) -> str:
    """An argument as one writes it, e.g. `--cores N`, or `IMAGE ...` if there may be several."""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    value = "" if action.nargs == 0 else str(action.metavar or choices)
    value = f"[{value}]" if action.nargs == "?" else value
    several = " ..." if action.nargs in ("+", "*") else ""
    name = max(action.option_strings, key=len, default="")
    return f"{name} {value}".strip() + several


def write_table(parser: argparse.ArgumentParser) -> list[str]:
    """The table of a command's arguments; empty if it has none."""
    rows = []
    for action in parser._actions:
        if action.help not in (None, argparse.SUPPRESS) and "--help" not in action.option_strings:
            meaning = (action.help % vars(action)).replace("|", "/").replace("<", "&lt;").replace("*", r"\*")
            needed = " (required)" if action.required and action.option_strings else ""
            rows.append(f"| `{name_argument(action)}` | {meaning}{needed} |")
    return ["| argument | meaning |", "| --- | --- |", *rows, ""] if rows else []


def write_section(parser: argparse.ArgumentParser, meaning: str) -> str:
    """A command's heading, meaning and arguments."""
    text = meaning[:1].upper() + meaning[1:].rstrip(".") + "."
    return "\n".join([f"## `{parser.prog}`", "", text, "", *write_table(parser)])


def build_page() -> str:
    """The whole page."""
    parser = build_parser()
    stages = list_stages()
    commands = find_commands(parser)
    assert commands is not None
    tabulate = "print the table; without an option, run the stage tabulate by hand"
    by_hand = STAGES.format(stages=", ".join(f"`{stage}`" for stage in stages))
    return "\n".join(
        [
            INTRODUCTION,
            *(write_section(*found) for found in walk(parser, "")),
            by_hand,
            *write_table(commands.choices[stages[0]]),
            write_section(commands.choices["tabulate"], tabulate),
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(build_page(), encoding="utf-8")
