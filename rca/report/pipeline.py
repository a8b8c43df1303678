"""The report's picture of the pipeline: its stages in order and what each needs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter

# Height of a stage's row on the page, and the distance between two arcs beside it, in pixels.
ROW, LANE = 40, 9


@dataclass(frozen=True)
class StageFiles:
    """The files of a stage, for all its runs, seeds and shards.

    Attributes:
        inputs: Paths that it reads, with * for the parts that differ between instances.
        outputs: Paths that it writes, in the same form.
        instances: How many instances the stage has.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    instances: int


@dataclass(frozen=True)
class Node:
    """A stage in its row.

    Attributes:
        name: The stage.
        needs: The stages whose outputs it reads, in row order.
        direct: Those of them that no other of them needs: an arc leads from each.
        instances: How many instances the stage has.
    """

    name: str
    needs: list[str]
    direct: list[str]
    instances: int


@dataclass(frozen=True)
class Graph:
    """All stages, each below those that it needs.

    Attributes:
        nodes: The stages, in row order.
        arcs: SVG paths from a stage to one that needs it, with the names of both; arcs implied by others are left out.
        width: The picture's width, in pixels.
        height: The picture's height, in pixels.
    """

    nodes: list[Node]
    arcs: list[tuple[str, str, str]]
    width: int
    height: int


def draw_graph(stages: Mapping[str, StageFiles]) -> Graph:
    """Order the stages, and draw an arc on their left for what each needs.

    A stage that reads what a run of an earlier round made may lead back to itself: arcs against the order of the stages
    that close a circle are left out.
    """
    reads = {
        name: [other for other in stages if other != name and _reads(stage, stages[other])]
        for name, stage in stages.items()
    }
    order = list(stages)
    needs = {
        name: [other for other in others if order.index(other) < order.index(name) or not _leads(reads, other, name)]
        for name, others in reads.items()
    }
    names = list(TopologicalSorter(needs).static_order())
    place = {name: number for number, name in enumerate(names)}
    before: dict[str, set[str]] = {}
    for name in names:
        before[name] = set(needs[name]).union(*(before[other] for other in needs[name]))
    direct = [
        (place[other], place[name])
        for name in names
        for other in needs[name]
        if not any(other in before[between] for between in needs[name])
    ]
    lanes = _choose_lanes(direct)
    width = LANE * (max(lanes.values(), default=0) + 2)
    arcs = []
    for (first, last), lane in lanes.items():
        top, bottom, x, depth = ROW * (first + 0.5), ROW * (last + 0.5), width - LANE, LANE * lane
        path = f"M{x} {top}h-{depth - 6}q-6 0-6 6V{bottom - 6}q0 6 6 6H{x}" if lane else f"M{x} {top}V{bottom}"
        arcs.append((path, names[first], names[last]))
    nodes = []
    for name in names:
        ordered = sorted(needs[name], key=place.__getitem__)
        shown = [other for other in ordered if (place[other], place[name]) in lanes]
        nodes.append(Node(name, ordered, shown, stages[name].instances))
    return Graph(nodes, arcs, width, ROW * len(names))


def _leads(reads: Mapping[str, Sequence[str]], stage: str, to: str) -> bool:
    """Whether a stage reads another's outputs, directly or not."""
    seen, left = {stage}, [stage]
    while left:
        new = set(reads[left.pop()]) - seen
        seen |= new
        left += sorted(new)
    return to in seen


def _reads(stage: StageFiles, other: StageFiles) -> bool:
    """Whether a stage reads an output of another stage, a part of it, or a folder around it."""
    return any(
        all(map(_is_same, path.split("/"), output.split("/"))) for path in stage.inputs for output in other.outputs
    )


def _is_same(read: str, written: str) -> bool:
    """Whether two parts of paths may be the same; a part that is only a variable does not match a fixed name."""
    return read == written or (written != "*" != read and fnmatchcase(read, written))


def _choose_lanes(arcs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Give each arc a lane without overlaps, short arcs near the stages; arcs between neighbours need none (0)."""
    lanes: dict[tuple[int, int], int] = {}
    for first, last in sorted(arcs, key=lambda arc: (arc[1] - arc[0], arc)):
        taken = {lane for (top, bottom), lane in lanes.items() if top < last and first < bottom}
        free = (lane for lane in range(len(lanes) + 2) if lane not in taken)
        lanes[first, last] = 0 if last == first + 1 else next(lane for lane in free if lane > 0)
    return lanes
