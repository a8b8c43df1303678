from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import Field, model_validator

from rca.core.errors import UserError
from rca.core.settings import Settings, Unpinned, build_settings, list_pinned, load_params, merge, parse_yaml

SOURCE = Path("params.yaml")


class Inner(Settings):
    rate: float = Field(default=0.1, gt=0)
    sides: tuple[int, int] = (1, 2)


class Outer(Settings):
    name: str
    count: int = 3
    on: bool = False
    inner: Inner = Inner()
    parts: dict[str, Inner] = {}

    @model_validator(mode="after")
    def _name_is_none_of_the_parts(self) -> "Outer":
        if self.name in self.parts:
            raise ValueError(f"name and parts both have {self.name}: rename one")
        return self


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2e+3", -2000.0),
        (".5e-1", 0.05),
        ("1.e2", 100.0),
        ("0.5", 0.5),
        ("4", 4),
        ("4e", "4e"),
        ("e4", "e4"),
        ("true", True),
        ("null", None),
    ],
)
def test_scalars_have_the_type_that_they_look_like(text: str, expected: object) -> None:
    found = parse_yaml(f"key: {text}")["key"]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "s:\n  x: {y: 1, y: 1}"])
def test_a_repeated_key_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="is given twice"):
        parse_yaml(text)


def test_a_section_may_take_over_another_and_override_it() -> None:
    found = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a}")
    assert found == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "a: !!python/name:os.system"])
def test_yaml_runs_no_code(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_settings_are_built_from_plain_data() -> None:
    found = build_settings(Outer, {"name": "x", "inner": {"rate": 1, "sides": [4, 5]}}, "outer", SOURCE)
    assert found == Outer(name="x", inner=Inner(rate=1.0, sides=(4, 5)))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"name": "x", "cuont": 1}, "outer.cuont is an unknown key: remove it or fix its spelling (count?)."),
        ({"name": "x", "inner": {"rat": 1}}, "outer.inner.rat is an unknown key"),
        ({"count": 1}, "outer.name is missing: add it."),
        ({"name": "x", "count": "3"}, 'outer.count is "3": '),
        ({"name": "x", "count": 3.5}, "outer.count is 3.5: "),
        ({"name": "x", "count": True}, "outer.count is true: "),
        ({"name": "x", "on": 1}, "outer.on is 1: "),
        ({"name": 7}, "outer.name is 7: "),
        ({"name": "x", "inner": {"rate": 0}}, "outer.inner.rate is 0: input should be greater than 0."),
        ({"name": "x", "inner": {"rate": float("nan")}}, "outer.inner.rate is NaN: "),
        ({"name": "x", "inner": {"sides": [1]}}, "outer.inner.sides"),
        ({"name": "x", "parts": {"one": {"rate": -1}}}, "outer.parts.one.rate is -1: "),
        ([1, 2], "outer is [1, 2]: "),
        (None, "outer is null: "),
    ],
)
def test_errors_name_the_dotted_key(data: object, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        build_settings(Outer, data, "outer", SOURCE)
    assert str(caught.value).startswith(f"params.yaml: {sentence}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"name": "x", "cuont": 1}, "cuont is an unknown key: remove it or fix its spelling (count?)."),
        ({"name": "x", "inner": {"rate": 0}}, "inner.rate is 0: input should be greater than 0."),
        ({"name": "x", "parts": {"x": {}}}, "name and parts both have x: rename one."),
    ],
)
def test_keys_of_a_whole_file_start_at_its_top(data: object, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        build_settings(Outer, data, "", SOURCE)
    assert str(caught.value) == f"params.yaml: {sentence}"


@pytest.mark.parametrize(("name", "place"), [("outer", "outer"), ("", "it")])
def test_a_date_is_refused(name: str, place: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: {place} holds a value that params cannot hold"):
        build_settings(Outer, parse_yaml("name: 2020-01-01"), name, SOURCE)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="x").count = 4


def test_overrides_merge_key_by_key_and_leave_their_base_alone() -> None:
    base = {"a": {"x": 1, "y": {"z": 2}}, "b": [1, 2], "c": {"k": 1}}
    assert merge(base, {"a": {"y": {"w": 3}}, "b": [9], "c": 5, "d": {}}) == {
        "a": {"x": 1, "y": {"z": 2, "w": 3}},
        "b": [9],
        "c": 5,
        "d": {},
    }
    assert base == {"a": {"x": 1, "y": {"z": 2}}, "b": [1, 2], "c": {"k": 1}}


@pytest.mark.parametrize("key", ["kind", "source", "format"])
def test_another_kind_brings_its_own_keys(key: str) -> None:
    base = {"a": {key: "power", "alpha": 4}}
    assert merge(base, {"a": {key: "constant", "threshold": 0.5}}) == {"a": {key: "constant", "threshold": 0.5}}
    assert merge(base, {"a": {key: "power"}}) == base
    assert merge(base, {"a": {"alpha": 8}}) == {"a": {key: "power", "alpha": 8}}
    assert merge({"a": {"alpha": 4}}, {"a": {key: "constant"}}) == {"a": {key: "constant"}}
    assert merge({"a": None}, {"a": {key: "power"}}) == {"a": {key: "power"}}


class Work(Settings):
    size: int = 3
    workers: Annotated[int, Unpinned()] = Field(default=1, ge=1)


class Job(Settings):
    name: str = "x"
    work: Work = Work()
    inner: Inner = Inner()
    note: Annotated[str | None, Unpinned()] = None


def test_settings_that_change_no_result_are_left_out() -> None:
    job = Job(work=Work(workers=7), note="later")
    assert list_pinned(job) == {"name": "x", "work": {"size": 3}, "inner": {"rate": 0.1, "sides": [1, 2]}}
    assert list_pinned(Job()) == list_pinned(job)
    assert list_pinned(Inner()) == {"rate": 0.1, "sides": [1, 2]}


def test_an_unpinned_setting_keeps_its_range() -> None:
    with pytest.raises(UserError, match=r"work\.workers is 0: input should be greater than or equal to 1"):
        build_settings(Work, {"workers": 0}, "work", SOURCE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"a: [1, 2", "is not valid YAML"),
        (b"a: 1\na: 2", "the key a is given twice"),
        (b"caf\xe9: 1", "is not UTF-8 text"),
        (b"- 1\n- 2", "must be a mapping of sections, but it holds a list"),
        (b"", "must be a mapping"),
        (b"? [a, b]\n: 1", "is not valid YAML"),
        (b"? {a: b}\n: 1", "is not valid YAML"),
    ],
)
def test_a_params_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"params\.yaml") as caught:
        load_params(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
