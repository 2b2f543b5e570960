"""One network and one picture as a still image: Grad-CAM, the attention curve of a layer, and all layers at once.

Drawn by matplotlib, so that a notebook keeps it and shows it without a kernel; CRA Fig. 4 and 8.
"""

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 10.0, 6.2, 100  # inches, inches, pixels an inch
TEXT, LINE = "#757d89", "#2a6fbb"  # as in figures.py: seen on white as on black


class Seen(NamedTuple):
    """What a network made of a picture.

    picture: as the network reads it, (side, side, 3) uint8.  probabilities: (classes,).  heats: stage from 1 ->
    Grad-CAM (side, side) in [0, 1].  channels: (site, T (C,)) of every block that attends channels; none, and `why`.
    """

    picture: np.ndarray
    probabilities: np.ndarray
    heats: dict[int, np.ndarray]
    channels: list[tuple[str, np.ndarray]]
    why: str = ""


def png(seen: Seen, layer: str, caption: str) -> bytes:
    """The figure of `seen` as PNG with a transparent background; layer: a site, or a stage."""
    return encoded(draw(seen, layer, caption))


def draw(seen: Seen, layer: str, caption: str) -> "Figure":
    """Above: the picture, and Grad-CAM after every stage.  Below: T over the channels of `layer`, and of all layers."""
    figure = _empty(HEIGHT)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    upper, lower = parts
    for part in parts:
        part.patch.set_alpha(0)
    _heats(upper, seen, stage(layer, seen), caption)
    curve, heat = lower.subplots(1, 2, width_ratios=(1, 1.2))
    values = dict(seen.channels)
    if layer in values:
        _curve(curve, values[layer], layer)
    else:
        _say(curve, seen.why or f"Block {layer} attends no channels.")
    if values:
        _layers(lower, heat, seen.channels, layer)
    else:
        heat.set_axis_off()
    return figure


def words(text: str) -> bytes:
    """A sentence in place of the figure, as PNG."""
    figure = _empty(1.0)
    _say(figure.subplots(), text)
    return encoded(figure)


def encoded(figure: "Figure") -> bytes:
    """The same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", transparent=True, metadata={"Software": None})
    return file.getvalue()


def stage(layer: str, seen: Seen) -> int:
    """The stage, from 1, in which a layer lies; the last for a gate after it."""
    return min(int(layer.partition(".")[0]), max(seen.heats))


def _empty(height: float) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def _heats(figure: Any, seen: Seen, chosen: int, caption: str) -> None:
    """The picture, then its overlays; the stage of the layer has its title in bold."""
    from workbench.explain.pictures import overlay

    panels = figure.subplots(1, 1 + len(seen.heats), squeeze=False)[0]
    titles = ["picture", *(f"after stage {number}" for number in seen.heats)]
    for panel, title, heat in zip(panels, titles, [None, *seen.heats.values()], strict=True):
        bold = title == f"after stage {chosen}"
        panel.imshow(overlay(seen.picture, heat), interpolation="nearest")
        panel.set_title(title, color=LINE if bold else TEXT, fontsize=10, fontweight="bold" if bold else "normal")
        panel.set_axis_off()
    figure.suptitle(caption, color=TEXT, fontsize=11)


def _curve(panel: Any, T: np.ndarray, layer: str) -> None:
    """T over the channels; a dot for each, where they are few."""
    panel.plot(T, color=LINE, linewidth=1, marker="o" if len(T) <= 64 else "", markersize=3)
    _plain(panel, f"attention of block {layer}", "channel", "attention")


def _layers(figure: Any, panel: Any, channels: list[tuple[str, np.ndarray]], layer: str) -> None:
    """T of every layer as a row of cells; the row of `layer` has its name in bold."""
    widest = max(len(T) for _, T in channels)
    cells = np.full((len(channels), widest), np.nan, np.float32)
    for row, (_, T) in zip(cells, channels, strict=True):
        row[: len(T)] = T
    image = panel.imshow(cells, aspect="auto", interpolation="nearest", cmap="viridis")
    sites = [site for site, _ in channels]
    every = -(-len(sites) // 20)  # ResNet-152 has fifty
    shown = [row for row in range(len(sites)) if row % every == 0 or sites[row] == layer]
    panel.set_yticks(shown, [sites[row] for row in shown])
    _plain(panel, "attention of all layers", "channel", "block (stage.block)")
    for label in panel.get_yticklabels():
        if label.get_text() == layer:
            label.set(color=LINE, fontweight="bold")
    bar = figure.colorbar(image, ax=panel)
    bar.ax.tick_params(colors=TEXT, labelsize=8)
    bar.outline.set_visible(False)


def _plain(panel: Any, title: str, across: str, up: str) -> None:
    """The common look: grey text on no background."""
    panel.set_title(title, color=TEXT, fontsize=11)
    panel.set_xlabel(across, color=TEXT)
    panel.set_ylabel(up, color=TEXT)
    panel.tick_params(colors=TEXT, labelsize=8)
    panel.patch.set_alpha(0)
    for spine in panel.spines.values():
        spine.set_color(TEXT)


def _say(panel: Any, text: str) -> None:
    panel.set_axis_off()
    panel.text(0.5, 0.5, text, color=TEXT, ha="center", va="center", wrap=True, transform=panel.transAxes)
