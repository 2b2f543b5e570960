"""What detectors find in pictures, side by side, in plotly and as a frame.  CRA Fig. 7."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torchvision.ops import box_iou

from workbench.datasets.boxes import Item
from workbench.explain.figures import COLOURS, NARROW_PX, TEXT, plain
from workbench.explain.pictures import jpeg

if TYPE_CHECKING:
    import pandas as pd

MOST = 20  # boxes that are drawn in one picture, the best by score
SAME = 0.7  # IoU above which a box lies on a better one, and only that has a label
CELL_PX, GAP_PX, ROWS_PX, TITLE_LETTERS = 300, 16, 40, 36  # a picture's width; between two; names of rows; of columns
SHOWN = ("network", "picture", "class", "score", "left", "top", "right", "bottom")


class Boxed(NamedTuple):
    """n boxes in a picture.

    corners: (n, 4), left, top, right, bottom in px; classes: their names; scores: (n,) in [0, 1], of true boxes 1.
    """

    corners: np.ndarray
    classes: tuple[str, ...]
    scores: np.ndarray

    def above(self, least: float) -> "Boxed":
        """Those with a score of at least this, best first."""
        order = np.argsort(-self.scores, kind="stable")
        return self.of(order[self.scores[order] >= least])

    def of(self, places: Sequence[int] | np.ndarray) -> "Boxed":
        """Those at these places."""
        chosen = np.asarray(places, int)
        return Boxed(self.corners[chosen], tuple(self.classes[place] for place in chosen), self.scores[chosen])


class Scene(NamedTuple):
    """A picture, (H, W, 3) uint8, and its true boxes, None where they are not known."""

    name: str
    pixels: np.ndarray
    truth: Boxed | None = None


def find(detector: Any, classes: Sequence[str], picture: torch.Tensor) -> Boxed:
    """What a detector finds in a picture (3, H, W) in [0, 1], by the names of its classes."""
    (found,) = detector.detect([picture])
    names = tuple(classes[label] for label in found.labels.tolist())
    return Boxed(found.boxes.cpu().numpy(), names, found.scores.cpu().numpy())


def true_boxes(item: Item, classes: Sequence[str]) -> Boxed:
    """The true boxes of a picture; none around crowds, which a detector need not find."""
    single = ~item.crowd
    names = tuple(classes[label] for label in item.labels[single].tolist())
    return Boxed(item.boxes[single].numpy(), names, np.ones(len(names), np.float32))


def frame(scenes: Sequence[Scene], found: Mapping[str, Sequence[Boxed]], least: float) -> "pd.DataFrame":
    """A row a box with a score of at least `least`; found: network -> what it finds in each of the pictures.

    IoU: with the true box of any class that it shares most with, whose class is `true class`; 0 and no class where it
    shares nothing, and missing where the truth is not known.
    """
    import pandas as pd

    rows = []
    for network, all_found in found.items():
        for scene, one in zip(scenes, all_found, strict=True):
            kept = one.above(least)
            matches = best(kept, scene.truth)
            for corners, name, score, match in zip(kept.corners, kept.classes, kept.scores, matches, strict=True):
                rows.append((network, scene.name, name, float(score), *map(float, corners), *match))
    return pd.DataFrame(rows, columns=[*SHOWN, "IoU", "true class"]).rename_axis("box")


def best(found: Boxed, truth: Boxed | None) -> list[tuple[float, str]]:
    """For each box the greatest IoU with a true one, and its class."""
    if truth is None:
        return [(float("nan"), "")] * len(found.scores)
    if not len(truth.scores):
        return [(0.0, "")] * len(found.scores)
    shares = box_iou(*(torch.from_numpy(np.asarray(one.corners, np.float32)) for one in (found, truth))).numpy()
    return [(float(row.max()), truth.classes[row.argmax()] if row.max() > 0 else "") for row in shares]


def side_by_side(
    scenes: Sequence[Scene], found: Mapping[str, Sequence[Boxed]], least: float, classes: Sequence[str] = ()
) -> go.Figure:
    """Rows: pictures; columns: networks; boxes with class and score in percent, the true ones dashed.

    "+2" after a score: two more boxes lie on this one, with lower scores, as of a detector that is not sure of a class.
    classes: those that there are, so that figures with the same ones have the same colours.
    found and least as in `frame`; of a network's boxes in a picture the MOST best are drawn.
    """
    kept = {network: [one.above(least) for one in all_found] for network, all_found in found.items()}
    drawn = dict.fromkeys(name for all_kept in kept.values() for one in all_kept for name in one.classes[:MOST])
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(dict.fromkeys([*classes, *drawn]))}
    colours = {name: colour for name, colour in colours.items() if name in drawn}
    heights = [CELL_PX * len(scene.pixels) / scene.pixels.shape[1] for scene in scenes]
    width, height = len(kept) * (CELL_PX + GAP_PX) - GAP_PX, sum(heights) + GAP_PX * (len(scenes) - 1)
    titles = ["<br>".join(wrap(network, TITLE_LETTERS)) for network in kept]
    figure = make_subplots(
        len(scenes),
        len(kept),
        column_titles=titles,
        row_heights=heights,
        horizontal_spacing=GAP_PX / width,
        vertical_spacing=GAP_PX / height,
    )
    figure.update_annotations(font_size=NARROW_PX)
    for column, all_kept in enumerate(kept.values(), 1):
        for row, (scene, one) in enumerate(zip(scenes, all_kept, strict=True), 1):
            add_picture(figure, scene, row, column)
            add_boxes(figure, scene, one, colours, row, column)
    for row, scene in enumerate(scenes, 1):
        title = {"text": "<br>".join(wrap(scene.name, 24)), "standoff": 6, "font": {"size": 11}}
        figure.update_yaxes(title=title, row=row, col=1)
    add_legend(figure, colours, any(scene.truth for scene in scenes))
    top = 20 + 18 * max(title.count("<br>") + 1 for title in titles)
    bottom = 30 + 22 * -(-(len(colours) + 1) // (2 * len(kept)))  # of the legend, some 150 px a name
    plain(figure, round(height + top + bottom), words(scenes, kept, least))
    return figure.update_layout(
        width=width + ROWS_PX + 10,
        margin={"l": ROWS_PX, "r": 10, "t": top, "b": bottom},
        legend={"y": -12 / height, "itemclick": False, "itemdoubleclick": False},
    )


def words(scenes: Sequence[Scene], kept: Mapping[str, Sequence[Boxed]], least: float) -> str:
    """What is found where, how often, and beside how many true boxes."""
    found = []
    for place, scene in enumerate(scenes):
        counts = [f"{network} {len(all_kept[place].scores)}" for network, all_kept in kept.items()]
        truth = f", {len(scene.truth.scores)} in truth" if scene.truth else ""
        found.append(f"{scene.name}: {', '.join(counts)}{truth}")
    drawn = f" At most {MOST} are drawn." if any(len(one.scores) > MOST for row in kept.values() for one in row) else ""
    return f"Boxes with a score of at least {100 * least:.0f} % in pictures, by network; {'; '.join(found)}.{drawn}"


def add_picture(figure: go.Figure, scene: Scene, row: int, column: int) -> None:
    """The picture as wide as its cell, px as coordinates: the first is from 0 to 1."""
    height, width = scene.pixels.shape[:2]
    cell = go.Image(source=jpeg(scene.pixels), x0=0.5, y0=0.5, hoverinfo="skip")
    figure.add_trace(cell, row, column)
    figure.update_xaxes(range=[0, width], visible=False, row=row, col=column)
    figure.update_yaxes(
        range=[height, 0], showticklabels=False, showgrid=False, zeroline=False, ticks="", row=row, col=column
    )


def add_boxes(figure: go.Figure, scene: Scene, found: Boxed, colours: Mapping[str, str], row: int, column: int) -> None:
    """The true boxes, white and dashed on black, and above them those found, the best on top."""
    if scene.truth:
        for look in ({"color": "black", "width": 3}, {"color": "white", "width": 1.5, "dash": "dash"}):
            line = outline(scene.truth, [f"truth: {name}" for name in scene.truth.classes])
            figure.add_scatter(**line, line=look, row=row, col=column)
    drawn = found.of(range(min(MOST, len(found.scores))))
    for place in range(len(drawn.scores) - 1, -1, -1):
        line = outline(drawn.of([place]), [f"{drawn.classes[place]}, score {percent(drawn.scores[place])} %"])
        figure.add_scatter(**line, line={"color": colours[drawn.classes[place]], "width": 2.5}, row=row, col=column)
    for place, more in reversed(piles(drawn).items()):
        name, size = drawn.classes[place], scene.pixels.shape[:2]
        text = f"{name} {percent(drawn.scores[place])}" + (f" +{more}" if more else "")
        add_label(figure, drawn.corners[place], text, colours[name], size, row, column)


def piles(found: Boxed) -> dict[int, int]:
    """Place of each box that is no other's double -> how many doubles it has: worse ones with an IoU above SAME."""
    shares = box_iou(*[torch.from_numpy(np.asarray(found.corners, np.float32))] * 2).numpy()
    doubles: dict[int, int] = {}
    for place, row in enumerate(shares):
        same = next((other for other in doubles if row[other] > SAME), place)
        doubles[same] = doubles[same] + 1 if same in doubles else 0
    return doubles


def add_label(
    figure: go.Figure, corners: np.ndarray, text: str, colour: str, size: tuple[int, ...], row: int, column: int
) -> None:
    """Above a box, inside of the picture of this height and width; beyond its axes it would not be shown."""
    height, width = size
    left, top, right, _ = map(float, corners)
    from_right = left > 0.6 * width
    figure.add_annotation(
        x=min(right, width) if from_right else max(left, 0),
        y=min(max(top, 0), height),
        xanchor="right" if from_right else "left",
        yanchor="top" if top < 0.06 * height else "bottom",
        text=text,
        font={"size": 10, "color": "white"},
        bgcolor=colour,
        borderpad=1,
        showarrow=False,
        row=row,
        col=column,
    )


def percent(score: float) -> str:
    return f"{100 * score:.0f}"


def outline(boxes: Boxed, texts: Sequence[str]) -> dict[str, Any]:
    """The sides of all boxes as one broken line, with a text at their corners."""
    x, y, text = list[float | None](), list[float | None](), list[str]()
    for (left, top, right, bottom), words in zip(boxes.corners.tolist(), texts, strict=True):
        x += [left, right, right, left, left, None]
        y += [top, top, bottom, bottom, top, None]
        text += [words] * 6
    hover = "%{text}<extra></extra>"
    return {"x": x, "y": y, "text": text, "mode": "lines", "showlegend": False, "hovertemplate": hover}


def add_legend(figure: go.Figure, colours: Mapping[str, str], truth: bool) -> None:
    """A name for every colour, and for the dashes; they say nothing of one picture, so that they lie outside of all."""
    for name, colour in colours.items():
        figure.add_scatter(x=[None], y=[None], mode="lines", line={"color": colour, "width": 3}, name=name)
    if truth:
        dashed = {"color": TEXT, "width": 2, "dash": "dash"}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=dashed, name="truth")
