"""Run the benchmarks one after another and write docs/benchmarks.md: `python benchmarks`, or `make bench`.

    python benchmarks
    python benchmarks crf files        # these alone; the page keeps what the others gave last

Each script writes its figures to runs/benchmarks, and the page is put together from these.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import describe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "runs/benchmarks"
PAGE = ROOT / "docs/benchmarks.md"
# By script, in the page's order, the arguments with which all take less than 25 minutes on two cores.
SCRIPTS = {
    "jobs": "--jobs 76 300 934 --repeats 3",
    "train_step": "",
    "pairs": "--steps 2",
    "score_maps": "",
    "references": "",
    "crf": "",
    "files": "",
    "walk": "",
    "scale": "--images 250 500 1000 --repeats 1",
    "report_page": "--images 500 1500",
}
NOTES = Path(__file__).with_name("notes.md")
INTRODUCTION = """\
# Benchmarks

`make bench` writes this page. Every line compares within one run: times are processor seconds unless a line says
otherwise, and what is compared takes turns. A ratio is that of the fastest of each; its spread is the least, the median
and the most over the turns.
"""


def run(script: str, arguments: str) -> None:
    """Run a benchmark; what it gives replaces what it gave before."""
    print(f"--- {script}", flush=True)
    command = [sys.executable, str(ROOT / f"benchmarks/{script}.py"), *arguments.split()]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--json", str(RESULTS / f"{script}.json")], env=environment, check=True)


def compose(results: list[dict[str, Any]]) -> str:
    """The page."""
    table = ["| what | figure | spread | asked | kept |", "| --- | ---: | ---: | ---: | --- |"]
    table += [f"| {' | '.join(describe(figure))} |" for result in results for figure in result["figures"]]
    parts = [INTRODUCTION, "\n".join(table), NOTES.read_text().strip()]
    for result in results:
        parts.append(f"## {result['title']}")
        parts.append(f"`{result['command']}` took {result['seconds']:.0f} s on the clock ({result['machine']}).")
        parts += result["tables"]
    parts.append("```{include} ../benchmarks/README.md\n```")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("scripts", nargs="*", help=f"some of {', '.join(SCRIPTS)}; default: all")
    parser.add_argument("--page-only", action="store_true", help="run nothing; write the page from what is there")
    args = parser.parse_args()
    if unknown := set(args.scripts) - set(SCRIPTS):
        parser.error(f"there is no benchmark {sorted(unknown)[0]}: choose from {', '.join(SCRIPTS)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for script in [] if args.page_only else args.scripts or SCRIPTS:
        run(script, SCRIPTS[script])
    files = [RESULTS / f"{script}.json" for script in SCRIPTS]
    PAGE.write_text(compose([json.loads(file.read_text()) for file in files if file.exists()]))
    print(f"{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
