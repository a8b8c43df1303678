"""Names that become parts of paths and commands: one rule for each kind."""

import re
from collections.abc import Collection, Iterable

# No name can leave a folder, mean anything to a shell, or be taken for an option.
_RULES = {
    "run": (re.compile(r"[a-z0-9][a-z0-9_]*"), "lowercase letters, digits and _"),
    "dataset": (re.compile(r"[a-z0-9][a-z0-9_-]*"), "lowercase letters, digits, _ and -"),
    "split": (re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*"), "letters, digits, _, - and ."),
    "source": (re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*"), "letters, digits, _ and -"),
}
LONGEST = 100


def is_name(kind: str, name: str) -> bool:
    """Whether a name can name a "run", "dataset", "split" or "source"."""
    return _RULES[kind][0].fullmatch(name) is not None and len(name) <= LONGEST


def check_names(kind: str, names: Iterable[str], reserved: Collection[str] = ()) -> None:
    """Check names before anything is made of them.

    Args:
        kind: What they name: "run", "dataset" (or the link to one), "split" or "source".
        names: The names.
        reserved: Names that are taken.

    Raises:
        ValueError: one is unusable; the message says what to use.
    """
    letters = _RULES[kind][1]
    for name in names:
        if not is_name(kind, name) or name in reserved:
            taken = f", but not {', '.join(reserved)}" if reserved else ""
            raise ValueError(f"{name[:LONGEST]!r} cannot name a {kind}: use up to {LONGEST} {letters}{taken}")
