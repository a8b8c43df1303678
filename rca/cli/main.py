"""The command `rca`: run a stage by hand, and the commands around the pipeline."""

import os
import sys
from collections.abc import Sequence

from rca.cli.parser import build_parser
from rca.core.errors import tell
from rca.core.progress import print_anything
from rca.stages.base.names import list_stages

# The functions of commands that Python has words for.
NAMES = {"set": "set_values", "get": "get_value", "import": "import_masks"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; on bad input, or an error of the operating system, print one sentence and return exit code 2."""
    print_anything()
    parsed = vars(build_parser().parse_args(arguments))
    command = parsed.pop("command")
    # Imported late, so that `rca --help` does not wait for it.
    from rca.cli import commands

    try:
        latex, published = parsed.pop("latex", False), parsed.pop("published", None)
        if latex or published:
            commands.print_latex(published)
            return 0
        if command in list_stages():
            return commands.run_by_hand(command, **parsed)
        code = getattr(commands, NAMES.get(command, command))(**parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 1
    except Exception as error:
        sentence = tell(error)
        if sentence is None:
            raise
        _drop_output()
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    return code or 0


def _drop_output() -> None:
    """Redirect an output that takes nothing more (a full disk, `| head`), or Python would complain again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
