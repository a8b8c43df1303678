"""A run that starts from the settings of another."""

from pathlib import Path
from typing import Any

import pytest
from stages import read_preset, write_params

from rca.core.errors import UserError
from rca.params.read import read_params
from rca.params.schema import Run
from rca.stages.train_cam import TrainCamSettings

RCA = {"memory": {"size": 32, "gate": 0.5}, "contrast": {"weight": 0.3}, "aggregation": {"form": "none"}}


def read_run(name: str, run: dict[str, Any]) -> Run:
    params = read_preset()
    params.update(run=run, runs=[name])
    write_params(params)
    return read_params().described[name]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_starts_from_its_base_and_that_from_its_own() -> None:
    found = read_run(
        "third",
        {
            "first": {"method": "rca", "options": RCA, "train_cam": {"neck": 8, "second_view": 0.5}},
            "second": {"base": "first", "options": {"memory": {"size": 50}}, "train_cam": {"neck": 16}},
            "third": {"base": "second", "host": "seam", "options": {"contrast": {"weight": 1}}},
        },
    )
    assert (found.host, found.method) == ("seam", "rca")
    assert found.options == {
        "memory": {"size": 50, "gate": 0.5},
        "contrast": {"weight": 1},
        "aggregation": {"form": "none"},
    }
    settings = found.section(TrainCamSettings)
    assert (settings.neck, settings.second_view) == (16, 0.5)
    assert settings.optimisation.epochs == 32  # of the section


def test_a_base_need_not_be_made_itself() -> None:
    assert (
        read_run("own", {"base_alone": {"method": "rca", "options": RCA}, "own": {"base": "base_alone"}}).options == RCA
    )


def test_another_method_or_host_takes_no_options_of_the_base() -> None:
    eps = {"host": "eps", "host_options": {"overlap": 0.3}, "method": "rca", "options": RCA}
    found = read_run("own", {"eps": eps, "own": {"base": "eps", "method": "hsc", "options": {"start_epoch": 2}}})
    assert (found.options, found.host_options) == ({"start_epoch": 2}, {"overlap": 0.3})
    found = read_run("own", {"eps": eps, "own": {"base": "eps", "host": "cam"}})
    assert (found.options, found.host_options) == (RCA, {})
    found = read_run("own", {"eps": eps, "own": {"base": "eps", "host": "eps", "method": "rca"}})
    assert (found.options, found.host_options) == (RCA, {"overlap": 0.3})


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ({"own": {"base": "other"}}, "run.own.base names other, but there is no section run.other: add it."),
        ({"own": {"base": ["cam"]}}, "run.own.base names ['cam'], but there is no section"),
        ({"own": {"base": "own"}}, "run.own.base leads back to own: remove it there."),
        (
            {"own": {"base": "a"}, "a": {"base": "b"}, "b": {"base": "a"}},
            "run.a.base leads back to a: remove it there.",
        ),
    ],
)
def test_a_base_that_does_not_exist_or_leads_back_is_named(run: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        read_run("own", run)
    assert str(caught.value).startswith(f"params.yaml: {sentence}")
