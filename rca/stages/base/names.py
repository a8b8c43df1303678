"""The names of stages and of their instances on the command line; importing it takes no time."""

import argparse
from pathlib import Path

STAGES = Path(__file__).parent.parent


def list_stages() -> tuple[str, ...]:
    """The names of all stages, sorted: each module of `rca/stages` is one."""
    return tuple(sorted(path.stem for path in STAGES.glob("*.py") if not path.stem.startswith("__")))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name an instance of a stage."""
    item = "the dataset or network, for a stage that has one instance for each"
    parser.add_argument("item", nargs="?", default=argparse.SUPPRESS, help=item)
    parser.add_argument("--item", help=argparse.SUPPRESS)  # how dvc.yaml names it
    parser.add_argument("--run", help="one of the runs in params.yaml")
    parser.add_argument("--seed", type=int, help="the run's random seed, a whole number")
    parser.add_argument("--shard", type=int, help="which part of the images, counted from 0")
