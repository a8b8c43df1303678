import os
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from rca.cli.packaged import list_presets
from rca.cli.preset import apply_preset, read_preset
from rca.core.errors import UserError
from rca.core.plain_yaml import parse_yaml
from rca.core.settings import load_params, merge
from rca.params.read import read_params

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "workflow/presets/shapes.yaml"


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the presets `tiny` and `linked`, and a params.yaml that is committed."""
    root = tmp_path / "project"
    (root / "workflow/presets").mkdir(parents=True)
    text = SHAPES.read_text()
    (root / "workflow/presets/tiny.yaml").write_text(text)
    (root / "workflow/presets/linked.yaml").write_text(text + "\nlinks: {photos: $RCA_PLACE/real, here: ../near}\n")
    for place in (tmp_path / "far/real", tmp_path / "near"):
        place.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RCA_PLACE", str(tmp_path / "far"))
    monkeypatch.chdir(root)
    (root / "params.yaml").write_text("old: 1\n")
    git("init", "--quiet")
    git("add", "-A")
    git("commit", "--quiet", "-m", "start")
    return root


def check_untouched(project: Path, content: str = "old: 1\n") -> None:
    assert (project / "params.yaml").read_text() == content
    assert sorted(path.name for path in project.iterdir()) == [".git", "params.yaml", "workflow"]


def test_a_preset_is_written_with_its_comments(project: Path) -> None:
    assert {*list_presets()} == {"linked", "tiny", *(path.stem for path in SHAPES.parent.rglob("*.yaml"))}
    apply_preset("tiny", [], force=False)
    found, preset = (path.read_text() for path in (project / "params.yaml", SHAPES))
    assert load_params(project / "params.yaml") == load_params(SHAPES)
    comments = [[line.partition("#")[2] for line in text.splitlines() if "#" in line] for text in (found, preset)]
    assert comments[0] == comments[1] != []


def test_changes_are_laid_over_the_preset_and_nothing_else_changes(project: Path) -> None:
    changes = [
        "seeds=[3, 4, 5]",
        "train_cam.optimisation.learning_rate=1e-4",
        "run.rca.options.contrast={weight: 0.2}",
        "run.cam.train_cam.optimisation.epochs=3",
        "refine_crf.workers=2",
    ]
    apply_preset("tiny", changes, force=False)
    found, expected = load_params(project / "params.yaml"), load_params(SHAPES)
    assert found["train_cam"]["optimisation"].pop("learning_rate") == 1e-4
    del expected["train_cam"]["optimisation"]["learning_rate"]
    expected["seeds"], expected["refine_crf"]["workers"] = [3, 4, 5], 2
    expected["run"]["rca"]["options"]["contrast"] = {"weight": 0.2}
    assert found["run"]["cam"]["train_cam"] == {"optimisation": {"epochs": 3}}
    assert found["run"]["rca"]["options"] == expected["run"]["rca"]["options"]
    for name in ("seeds", "shards", "refine_crf", "train_seg", "train_cam", "evaluate"):
        assert found[name] == expected[name]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["runs=[cam]"], []),
        (["runs=[rca, cam]"], ["rca"]),
        (["run.cam.method=rca"], ["cam", "rca"]),
        (["seeds=[3]"], ["rca"]),
    ],
)
def test_the_instances_follow_the_runs(project: Path, changes: list[str], expected: list[str]) -> None:
    apply_preset("tiny", changes, force=False)
    instances = load_params(project / "workflow/instances.yaml")["stages"]
    assert instances["snapshot_memory"]["runs"] == expected
    assert instances["train_cam"]["runs"] == load_params(project / "params.yaml")["runs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seeds", "write dotted.key=value"),
        ("seeds=[0", "is not valid YAML"),
        ("train_cm.split=x", "train_cm is an unknown key"),
        ("run.cam.train_cam.optimisaton.epochs=3", "run.cam.train_cam.optimisaton is an unknown key"),
        ("seeds.first=1", "seeds is no section"),
        ("sedes=[1]", "sedes is an unknown key"),
        ("seeds=[0, 0]", "seeds must be distinct"),
        ("train_cam.optimisation.epochs=many", 'train_cam.optimisation.epochs is "many"'),
        ("run.rca.options.contrast.wieght=1", "run.rca.options.contrast.wieght is an unknown key"),
        ("memory_runs=[]", "memory_runs is an unknown key"),
        ("runs=[cam, new]", "runs lists new, but there is no section run.new"),
        ("run.cam.method=new", "There is no method new"),
    ],
)
def test_a_bad_change_is_refused_and_leaves_everything_as_it_was(project: Path, change: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_preset("tiny", [change], force=False)
    assert message in str(caught.value)
    check_untouched(project)


def test_an_unknown_preset_is_refused_with_those_there_are(project: Path) -> None:
    with pytest.raises(
        UserError, match=r"no preset huge: choose one of coco2014, coco_eps, .*, linked, .*, tiny, voc2012, "
    ):
        apply_preset("huge", [], force=False)
    check_untouched(project)


def test_edits_that_are_not_committed_are_overwritten_by_force_alone(project: Path) -> None:
    (project / "params.yaml").write_text("mine: 1\n")
    with pytest.raises(UserError, match="has edits that are not committed"):
        apply_preset("tiny", [], force=False)
    check_untouched(project, "mine: 1\n")
    apply_preset("tiny", [], force=True)
    assert load_params(project / "params.yaml") == load_params(SHAPES)


def test_without_a_repository_an_existing_file_counts_as_edited(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (project / ".git").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="not committed"):
        apply_preset("tiny", [], force=False)
    (project / "params.yaml").unlink()
    apply_preset("tiny", [], force=False)
    assert (project / "params.yaml").is_file()


def test_links_lead_where_the_environment_says(project: Path, tmp_path: Path) -> None:
    apply_preset("linked", [], force=False)
    assert (project / "data/photos").resolve() == tmp_path / "far/real"
    assert (project / "data/here").resolve() == tmp_path / "near"
    other = tmp_path / "other"
    other.mkdir()
    apply_preset("linked", [f"links.here={other}"], force=True)
    assert (project / "data/here").resolve() == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("links.photos=/no/such/place", "links.photos leads to /no/such/place, which does not exist"),
        ("links.photos=$RCA_NOWHERE/x", "links.photos needs the environment variable RCA_NOWHERE"),
    ],
)
def test_a_link_that_leads_nowhere_is_refused(project: Path, change: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_preset("linked", [change], force=False)
    assert message in str(caught.value)
    check_untouched(project)


def test_a_directory_is_never_replaced_by_a_link(project: Path) -> None:
    (project / "data/photos").mkdir(parents=True)
    (project / "data/photos/precious").write_text("x")
    with pytest.raises(UserError, match="data/photos is a directory of its own"):
        apply_preset("linked", [], force=False)
    assert (project / "data/photos/precious").exists()
    assert (project / "params.yaml").read_text() == "old: 1\n"


@pytest.mark.parametrize("preset", sorted(SHAPES.parent.glob("*.yaml")), ids=lambda preset: preset.stem)
def test_every_run_that_a_preset_describes_can_be_made(preset: Path, tmp_path: Path) -> None:
    data = load_params(preset)
    data["runs"] = list(data["run"])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    pairs = {(run.host, run.method) for run in read_params(tmp_path / "params.yaml").described.values()}
    if preset.stem in ("voc2012", "coco2014", "folder", "msrc"):
        assert pairs >= {("cam", "cam"), ("cam", "hsc"), ("cam", "mcis"), ("seam", "hsc")}
        assert ("cam", "rca_extended" if preset.stem == "folder" else "rca") in pairs
    if preset.stem == "research":
        assert pairs == {("cam", "cam"), ("cam", "rca_extended")}


PUBLISHED = sorted((SHAPES.parent / "published").glob("*.yaml"))


@pytest.mark.parametrize("layer", PUBLISHED, ids=lambda path: path.stem)
def test_a_preset_may_hold_only_what_differs_from_another(layer: Path, project: Path) -> None:
    plain = load_params(layer)
    base = plain.pop("preset")
    document = read_preset(layer.stem)
    assert parse_yaml(document.text) == merge(parse_yaml(read_preset(base).text), plain)
    assert document.text.startswith(layer.read_text().partition("\npreset:")[0])  # its own head ...
    assert "# VOC's own masks first" in document.text or base.startswith("coco")  # ... and the base's comments
    assert document.text.count("# random seeds of each run") == 1


def test_presets_that_lead_nowhere_or_back_are_refused(project: Path) -> None:
    for name, base in (("mine", "yours"), ("yours", "mine"), ("lost", "gone")):
        (project / f"workflow/presets/{name}.yaml").write_text(f"preset: {base}\nseeds: [1]\n")
    with pytest.raises(UserError, match=r"The preset mine leads back to itself: correct its key preset\."):
        apply_preset("mine", [], force=True)
    with pytest.raises(UserError, match="There is no preset gone: choose one of"):
        apply_preset("lost", [], force=True)
    check_untouched(project)


def test_a_layer_takes_changes_and_is_no_edit(project: Path) -> None:
    (project / "workflow/presets/mine.yaml").write_text("preset: tiny\nseeds: [1]\nrun: {cam: {options: {}}}\n")
    apply_preset("mine", [], force=False)
    assert load_params(project / "params.yaml")["seeds"] == [1]
    apply_preset("mine", ["seeds=[2]"], force=False)  # what stood there is the preset itself, so nothing is lost
    assert load_params(project / "params.yaml")["seeds"] == [2]
    with pytest.raises(UserError, match="has edits that are not committed"):
        apply_preset("mine", [], force=False)


def find_changes() -> list[tuple[str, list[str]]]:
    """The presets and changes of all commands in the README and on the user's pages."""
    pages = ("README.md", *(f"docs/{page}.md" for page in ("photographs", "published_datasets", "running")))
    found = []
    for file, preset in (*((page, "") for page in pages), ("docs/experiments.md", "research")):
        for block, span in re.findall(r"```\w*\n(.*?)```|`([^`]+)`", (ROOT / file).read_text(), re.DOTALL):
            # A block holds a command a line, a span one command that may go on in the next line.
            for command in block.splitlines() or [" ".join(span.split())]:
                words = shlex.split(command, comments=True) if "--set " in command else []
                changes = [after for word, after in pairwise(words) if word == "--set"]
                name = words[words.index("preset") + 1] if "preset" in words else preset
                if changes and name not in ("", "NAME"):
                    found.append((name, changes))
    return found


def test_documented_changes_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = find_changes()
    assert {name for name, _ in commands} >= {"folder", "research", "voc2012"}
    for place in ("shared/data/msrc", "shared/data/voc6", "shared/weights", "shared/VOC2012"):
        (tmp_path / place).mkdir(parents=True)
    for variable in ("RCA_SHARED", "PHOTOS", "VOC_ROOT", "COCO_ROOT"):
        monkeypatch.setenv(variable, str(tmp_path / "shared"))
    for number, (name, changes) in enumerate(commands):
        root = tmp_path / str(number)
        shutil.copytree(SHAPES.parent, root / "workflow/presets")
        monkeypatch.chdir(root)
        apply_preset(name, changes, force=True)
        assert load_params(root / "params.yaml") != load_params(SHAPES.parent / f"{name}.yaml"), changes
