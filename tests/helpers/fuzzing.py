"""Inputs that nobody would write, for readers that must succeed or refuse in a sentence."""

import os
import resource
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rca.core.errors import UserError, explain

# `RCA_EXAMPLES=5000 pytest tests/cli/test_fuzzing*.py -m "not slow"` tries more than the 100 of each day.
MANY = pytest.param(2000, marks=pytest.mark.slow)
EXAMPLES = pytest.mark.parametrize("examples", [int(os.environ.get("RCA_EXAMPLES", 100)), MANY])
FEW = pytest.mark.parametrize("examples", [int(os.environ.get("RCA_EXAMPLES", 40)), MANY])  # where one takes long
LONGEST = 60  # seconds for one example, on a machine that is busy with something else
MOST_MEMORY = 2 << 20  # KiB


def explore(
    read: Callable[[], object], write: Callable[[Any], object], inputs: st.SearchStrategy[Any], examples: int
) -> None:
    """Write each input and read it."""

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(inputs)
    def check(value: object) -> None:
        write(value)
        signal.alarm(LONGEST)
        try:
            read()
        except (UserError, OSError) as error:
            text = str(error) if isinstance(error, UserError) else explain(error)
            assert text is not None
            assert "\n" not in text
            assert len(text) < 1000
        finally:
            signal.alarm(0)

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"one example took more than {LONGEST} s")

    before, handler = measure(), signal.signal(signal.SIGALRM, stop)
    try:
        check()
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert measure() < max(before + 1, MOST_MEMORY)


def measure() -> int:
    """The most memory that this process has held, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes of which parts are cut out, doubled or replaced."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 2, 4, 8, 30, len(data)]))
        kind = draw(st.sampled_from(["replace", "double", "extreme"]))
        if kind == "replace":
            data[start : start + length] = draw(st.binary(max_size=12))
        elif kind == "double":
            data[start:start] = data[start : start + length]
        else:
            data[start : start + length] = draw(st.sampled_from([b"\xff", b"\0", b"\x7f", b"9", b"["])) * length
    return bytes(data)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["1:30", "..", "/", "train", "voc", "a;b", "9" * 5000, "~", "<<", "*a", "-1"])
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


CELLS = st.text(max_size=9) | st.sampled_from(
    ["a", "cat", "cat;dog", "..", "/x", "train", "", " ", "\0", '"', "\ufeff"]
)
