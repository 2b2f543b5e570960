"""What the trained networks of a table attend to: figures made from the weights of its runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from workbench import datasets
from workbench.errors import UnknownName
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.experiments.table import Table
from workbench.experiments.traits import normalised

if TYPE_CHECKING:
    import plotly.graph_objects as go


def contributions(table: Table, store: Store, budget: str, rows: Sequence[str]) -> "go.Figure":
    """The share of the earlier attention in each connection, every seed that was trained here.  DCA Fig. 5."""
    from workbench.explain import maps, pictures

    return pictures.contributions(
        {row: [maps.contribution(store.trained(one)) for one in _runs(table, store, budget, row)] for row in rows}
    )


def attention(table: Table, store: Store, budget: str, row: str, count: int) -> "go.Figure":
    """Channel attention in each layer for the first test pictures of `count` classes.  CRA Fig. 8."""
    from workbench.explain import maps, pictures

    run = _runs(table, store, budget, row)[0]
    _, x, names, _ = shown(run, store, count)
    return pictures.channel_curves(maps.channel_attention(store.trained(run), x), names)


def cams(table: Table, store: Store, budget: str, rows: Sequence[str], count: int) -> "go.Figure":
    """Grad-CAM of the true class after every stage, a line for each picture and row.  CRA Fig. 4, DCA Fig. 4."""
    from workbench.explain import pictures
    from workbench.explain.cam import grad_cam

    lines, heats = [], []
    for row in rows:
        run = _runs(table, store, budget, row)[0]
        uint8, x, names, labels = shown(run, store, count)
        found = grad_cam(store.trained(run), x, labels)
        lines += [f"{name}<br>{row}" for name in names]
        heats += [[None, *(found[stage][i] for stage in found)] for i in range(len(names))]
    stages = max(map(len, heats)) - 1
    heats = [heat + [None] * (stages + 1 - len(heat)) for heat in heats]
    order = [row * len(uint8) + picture for picture in range(len(uint8)) for row in range(len(rows))]
    grid = np.stack([uint8[i % len(uint8)] for i in order])[:, None]
    columns = ["picture", *(f"stage {number}" for number in range(1, stages + 1))]
    return pictures.overlay_grid(grid, [heats[i] for i in order], columns, [lines[i] for i in order], "Grad-CAM")


def detections(table: Table, store: Store, budget: str, rows: Sequence[str], count: int, least: float) -> "go.Figure":
    """What the detectors of these rows find in the first test pictures, at most `count`, side by side.  CRA Fig. 7.

    least: the score, in [0, 1], from which on a box is shown.
    """
    from workbench.detection.batches import as_input
    from workbench.explain import detections as explain

    runs = {row: _runs(table, store, budget, row)[0] for row in rows}
    _, test = datasets.load_boxes(next(iter(runs.values())).dataset, store.data)
    items = [test.item(index) for index in range(min(count, len(test)))]
    scenes = [
        explain.Scene(f"test picture {number}", item.picture.numpy(), explain.true_boxes(item, test.classes))
        for number, item in enumerate(items, 1)
    ]
    trained = {row: store.trained(run) for row, run in runs.items()}
    found = {
        row: [explain.find(detector, test.classes, as_input(item.picture)) for item in items]
        for row, detector in trained.items()
    }
    return explain.side_by_side(scenes, found, least, test.classes)


def shown(run: Experiment, store: Store, count: int) -> tuple[np.ndarray, Tensor, list[str], list[int]]:
    """The first test picture of each of the first `count` classes that have one, or of fewer where there are fewer:
    uint8 (N, H, W, 3), normalised (N, 3, H, W), class names and numbers.
    """
    from workbench.build import image_size

    _, test = datasets.load(run.dataset, store.data, image_size(run.model))
    labels = test.labels.unique()[:count].tolist()
    uint8, x = normalised(test, [int((test.labels == label).nonzero()[0, 0]) for label in labels])
    return uint8.numpy(), x, [test.classes[label] for label in labels], labels


def _runs(table: Table, store: Store, budget: str, row: str) -> list[Experiment]:
    """The runs of this row that are done here."""
    known = [one.label for one, _ in table.measured_rows(budget)]
    if row not in known:
        raise UnknownName(f"row of {table.key} at {budget}:", row, known)
    place, seeds = known.index(row), 0
    found: list[Experiment] = []
    while (run := table.experiments(budget, seeds + 1)[seeds * len(known) + place]) and store.get(run):
        found.append(run)
        seeds += 1
    return found or [run]
