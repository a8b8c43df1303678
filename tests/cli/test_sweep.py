"""`rca sweep`: the runs that it adds, and the table that it prints of what they reached."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import ttest_rel
from stages import read_preset, write_params

from rca.cli import sweep as sweeping
from rca.cli.main import main
from rca.core.files import write_json
from rca.core.settings import load_params
from rca.params.read import read_params
from rca.params.schema import Params
from rca.stages.train_cam import TrainCamSettings

SHAPES = Path(__file__).parents[2] / "workflow/presets/shapes.yaml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that holds nothing but the params of the preset shapes."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(SHAPES.read_text())
    return tmp_path


def add(*words: str) -> Params:
    """The params after a sweep that runs nothing."""
    assert main(["sweep", *words, "--no-run"]) == 0
    return read_params()


def list_grid(params: Params, read: Callable[[TrainCamSettings], object]) -> list[object]:
    return [read(params.described[name].section(TrainCamSettings)) for name in params.runs[2:]]


def test_a_grid_becomes_runs_that_differ_in_its_keys_alone(project: Path) -> None:
    before = read_params()
    after = add(
        "train_cam.optimisation.epochs=3,4", "train_cam.optimisation.batch_size=2,4", "--seeds", "3", "--run", "cam"
    )
    assert after.runs == (
        *("cam", "rca", "cam_epochs_3_batch_size_2", "cam_epochs_3_batch_size_4"),
        *("cam_epochs_4_batch_size_2", "cam_epochs_4_batch_size_4"),
    )
    assert after.seeds == (0, 1, 2)
    grid = list_grid(after, lambda settings: (settings.optimisation.epochs, settings.optimisation.batch_size))
    assert grid == [(3, 2), (3, 4), (4, 2), (4, 4)]
    base = before.described["cam"].section(TrainCamSettings)
    for name in after.runs[2:]:
        settings = after.described[name].section(TrainCamSettings)
        swept = {"epochs": base.optimisation.epochs, "batch_size": base.optimisation.batch_size}
        assert settings.optimisation.model_copy(update=swept) == base.optimisation
        assert settings.model_copy(update={"optimisation": base.optimisation}) == base
    assert (after.described["cam"], after.described["rca"]) == (before.described["cam"], before.described["rca"])
    text = Path("params.yaml").read_text()
    assert re.search(r"^seeds: \[0, 1, 2\] +# random seeds of each run$", text, re.MULTILINE)  # comments stay
    plain, old = load_params(Path("params.yaml")), load_params(SHAPES)
    added = {name: plain["run"].pop(name) for name in after.runs[2:]}
    assert added["cam_epochs_3_batch_size_4"] == {
        "base": "cam",
        "train_cam": {"optimisation": {"epochs": 3, "batch_size": 4}},
    }
    assert plain == {**old, "runs": list(after.runs), "seeds": [0, 1, 2]}


def test_options_of_the_last_run_are_swept(project: Path) -> None:
    after = add("options.contrast.weight=0.1,1", "run.rca.options.memory.size=8")
    assert after.runs[2:] == ("rca_weight_0_1_size_8", "rca_weight_1_size_8")
    assert after.seeds == (0, 1)
    for name, weight in zip(after.runs[2:], (0.1, 1), strict=True):
        assert load_params(Path("params.yaml"))["run"][name] == {
            "base": "rca",
            "options": {"contrast": {"weight": weight}, "memory": {"size": 8}},
        }


def test_a_setting_that_a_run_has_already_is_no_run_of_its_own(project: Path) -> None:
    epochs = read_params().described["cam"].section(TrainCamSettings).optimisation.epochs
    after = add("--run", "cam", f"train_cam.optimisation.epochs=2,{epochs},2")
    assert after.runs == ("cam", "rca", "cam_epochs_2")
    again = Path("params.yaml").read_text()
    assert add("--run", "cam", f"train_cam.optimisation.epochs=2,{epochs}") == after
    assert Path("params.yaml").read_text() == again  # the same command changes nothing
    assert add("--run", "cam", "train_cam.optimisation.epochs=5").runs == (*after.runs, "cam_epochs_5")


def test_values_that_spell_alike_have_names_of_their_own(project: Path) -> None:
    after = add(
        "train_cam.augmentation.scale=[0.5, 1],[0.5, 1.0, 1.0][:2]".replace("[0.5, 1.0, 1.0][:2]", "[0.5, 1.5]")
    )
    assert list_grid(after, lambda settings: settings.augmentation.scale) == [(0.5, 1.0), (0.5, 1.5)]
    Path("params.yaml").write_text(SHAPES.read_text())
    assert main(["set", "run.rca_epochs_2={base: cam}"]) == 0  # somebody else's
    after = add("train_cam.optimisation.epochs=2")
    assert after.runs[2:] == ("rca_epochs_2_2",)


def test_a_run_that_takes_a_network_still_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = read_preset()
    params["run"]["extended"] = {"base": "cam", "train": "none", "method": "rca_extended"}
    params["runs"] = ["cam", "extended"]
    write_params(params)
    after = add("make_cam.stride=2,4")
    assert after.runs[2:] == ("extended_stride_4",)  # two is what it has
    assert after.described["extended_stride_4"].taken_from == "cam"


def test_the_run_that_is_trained_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = read_preset()
    params["run"]["extended"] = {"base": "cam", "train": "none", "method": "rca_extended"}
    params["runs"] = ["cam", "extended"]
    write_params(params)
    assert main(["sweep", "train_cam.optimisation.epochs=1,2", "--no-run"]) == 2
    assert "extended takes the network of cam" in (error := capsys.readouterr().err)
    assert error.endswith("add --run cam.\n")
    assert add("train_cam.optimisation.epochs=1,2", "--run", "cam").runs[2:] == ("cam_epochs_1", "cam_epochs_2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["epochs"], "rca sweep epochs: write dotted.key=a,b,c"),
        (["a="], "rca sweep a=: write dotted.key=a,b,c"),
        (["a=1,]"], "rca sweep a=1,]: 1,] is no list of YAML values: write e.g. a=1,2,3."),
        (["a=1", "a=2"], "rca sweep a=2: a is named twice: give all its values at once."),
        (["run.cam.a=1", "run.rca.b=2"], "A sweep varies one run, but cam and rca are named"),
        (["run.cam.a=1", "--run", "rca"], "A sweep varies one run, but rca and cam are named"),
        (["a=1", "--run", "hsc"], "There is no section run.hsc: choose from cam, rca."),
        (["train_cam.optimisation.epoch=1"], "epoch"),
        (["train_cam.optimisation.epochs=0"], "train_cam.optimisation.epochs"),
        (["prepare_data.workers=1"], "prepare_data cannot differ between runs: set it in prepare_data."),
        (["seeds=3"], "error: rca sweep: run.rca_seeds_3.seeds is an unknown key"),
        (["options.contrast.wait=1"], "wait"),
    ],
)
def test_bad_grids_are_told_and_change_nothing(
    project: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert Path("params.yaml").read_text() == SHAPES.read_text()


def test_the_table_pairs_each_run_with_the_one_that_it_varies(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reached = {"rca": [0.40, 0.42, 0.47], "rca_epochs_2": [0.41, 0.45, 0.52], "rca_epochs_3": [0.39, 0.40, 0.41]}

    def run(*arguments: object, **options: object) -> None:
        params = read_params()
        assert params.runs == ("cam", *reached)
        for name, mious in reached.items():
            for seed, miou in zip(params.seeds, mious, strict=True):
                metrics = {"segmentation": {"val": {"images": 9, "miou": miou}}}
                write_json(Path(f"results/shapes/{name}-{seed}.json"), metrics)

    monkeypatch.setattr(sweeping, "run_pipeline", run)
    assert main(["sweep", "train_cam.optimisation.epochs=2,3", "--seeds", "3"]) == 0
    printed = capsys.readouterr().out
    assert "run.rca_epochs_2: (default) -> {base: rca, train_cam: {optimisation: {epochs: 2}}}" in printed
    (back,) = re.findall(r"To take them out again: rca (.*)", printed)
    for name in ("rca_epochs_2", "rca_epochs_3"):
        truth = ttest_rel(reached[name], reached["rca"])
        low, high = (100 * end for end in truth.confidence_interval(0.95))
        mean = 100 * sum(one - other for one, other in zip(reached[name], reached["rca"], strict=True)) / 3
        (row,) = [line for line in printed.splitlines() if line.startswith(f"| {name} |") and "[" in line]
        found = [float(number) for number in re.findall(r"[+-]\d+\.\d", row)]
        assert found == pytest.approx([mean, low, high], abs=0.06)
    assert main(shlex.split(back)) == 0
    assert (read_params().runs, read_params().seeds) == (("cam", "rca"), (0, 1))
