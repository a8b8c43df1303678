"""YAML that would take memory or time without end is refused at once."""

import time

import pytest
import yaml

from rca.core.plain_yaml import MOST_LEVELS, MOST_VALUES, MOST_YAML, parse_yaml

TIMES = ",".join(["*a{}"] * 9)


def grow(first: str, line: str) -> str:
    """Twelve anchors, each nine times the one before."""
    return first + "".join(
        line.format(name=number, inner=TIMES.replace("{}", str(number - 1))) for number in range(1, 12)
    )


BOMBS = {
    "billion laughs": grow("a0: &a0 [x, x]\n", "a{name}: &a{name} [{inner}]\n"),
    "merges": grow("a0: &a0 {x: 1}\n", "a{name}: &a{name} {{<<: [{inner}]}}\n"),
    "keys": grow("a0: &a0 {x: 1}\n", "a{name}: &a{name} {{k: [{inner}]}}\n"),
    "itself": "&x [*x]",
    "itself below": "a: &x {b: {c: *x}}",
    "itself by a merge": "a: &x {<<: *x}",
    "900 levels": "[" * 900 + "]" * 900,
    "900 open levels": "[" * 900,
    "900 levels of mappings": "{a: " * 900 + "1" + "}" * 900,
    "900 levels of blocks": "".join(" " * level + "a:\n" for level in range(900))[: MOST_YAML - 1],
    "900 levels of dashes": "- " * 900 + "a",
    "one level too many": "[[a], " * (MOST_LEVELS + 1),
    "100,000 values": "[" + "1," * 50_000 + "]",
    "one value too many": "[" + "1," * MOST_VALUES + "]",
    "a long text": "a: " + "x" * MOST_YAML,
    "5,000 digits": "a: " + "9" * 5000,
    "a date that is none": "a: 2020-13-45",
    "an object": "a: !!python/object:os.system {}",
    "a call": "a: !!python/object/apply:os.system [ls]",
    "bytes that are none": "a: !!binary x",
    "a number that is none": "a: !!int ''",
    "a time that is none": "a: !!timestamp x",
    "a letter that is none": 'a: "\\U00FFFFFF"',
    "a null": "a: \x00",
    "two documents": "a: 1\n---\nb: 2",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_at_once(kind: str) -> None:
    start = time.process_time()
    with pytest.raises(yaml.YAMLError) as caught:
        parse_yaml(BOMBS[kind])
    assert time.process_time() - start < 2  # a second on an idle machine
    assert len(str(caught.value)) < 1000


def test_what_lies_within_the_bounds_is_read() -> None:
    half = MOST_LEVELS - 1
    found = parse_yaml("deep: " + "[" * half + "]" * half)
    for _ in range(half - 1):
        (found,) = found["deep"] if isinstance(found, dict) else found
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": [{"x": 1}, {"x": 1}],
    }
    assert len(parse_yaml("[" + "1," * (MOST_VALUES - 2) + "]")) == MOST_VALUES - 2


@pytest.mark.parametrize("text", ["1:30", "-1:30", "190:20:30", "1:30.5"])
def test_nothing_counts_in_sixties(text: str) -> None:
    assert yaml.safe_load(f"a: {text}")["a"] != text  # PyYAML does
    assert parse_yaml(f"a: {text}") == {"a": text}
