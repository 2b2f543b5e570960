"""What the explorer shows of the attention of one network: a figure, all its numbers, and a short table.

Pure functions of what maps.py and templates.py return; labels are of the pictures, one each.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import plotly.graph_objects as go

from workbench.errors import OutOfRange
from workbench.explain import panels
from workbench.explain import pictures as drawn
from workbench.explain.maps import Values, apart, frame
from workbench.explain.templates import Reading

if TYPE_CHECKING:
    import pandas as pd


class Exhibit(NamedTuple):
    """numbers: every value of the figure, for a file; table: what a page has room for; words: the same in sentences.

    second: a closer look, and what it shows.
    """

    figure: go.Figure
    numbers: "pd.DataFrame"
    table: "pd.DataFrame"
    words: Sequence[str] = ()
    second: tuple[str, go.Figure] | None = None


def channels(values: Values, labels: Sequence[str], kind: str, order: str) -> Exhibit:
    """kind: `curves`, `heat`, or `difference` of the first two pictures.  values: (site, T (N, C))."""
    numbers, columns = frame(values, labels, ["channel"]), in_a_row(values)
    if kind == "heat":
        return Exhibit(drawn.attention_heat(values, order), numbers, means(values, labels))
    if kind == "curves":
        return Exhibit(drawn.channel_curves(values, labels, order, columns), numbers, means(values, labels))
    table = apart(values).rename(columns={"first": labels[0], "second": labels[1]}).set_index("block")
    sizes = ", ".join(f"{site} {np.abs(T[0] - T[1]).mean():.3f}" for site, T in values)
    words = [f"Mean absolute difference of each block: {sizes}.", "The channels that differ most:"]
    return Exhibit(panels.differences(values, labels, order, columns), numbers, table, words)


def positions(values: Values, labels: Sequence[str], pictures: np.ndarray, own: bool) -> Exhibit:
    """values: (site, T (N, H, W)); pictures: (N, side, side, 3) uint8; own: a scale for each map, see `enlarged`."""
    import pandas as pd

    heats, low, high = panels.enlarged(values, pictures.shape[1], own)
    columns = ["picture", *(site for site, _ in values)]
    figure = drawn.overlay_grid(pictures[:, None], [[None, *row] for row in heats], columns, labels, "attention")
    ends = ["lowest", "highest"] if own else [f"{low:.3f}", f"{high:.3f}"]
    figure.data[-1].marker.colorbar.update(tickvals=[0, 1], ticktext=ends)
    rows = [(site, label, T.min(), T.mean(), T.max())
            for site, maps in values for label, T in zip(labels, maps, strict=True)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["block", "picture", "lowest", "mean", "highest"]).set_index("block")
    return Exhibit(figure, frame(values, labels, ["row", "column"]), table)


def branches(values: Values, labels: Sequence[str]) -> Exhibit:
    """values: (site, T (N, C, 2)) of selective kernels; the second figure has every channel."""
    wide = [(site, T[..., 1]) for site, T in values]
    curves = drawn.channel_curves(wide, labels, columns=in_a_row(wide)).update_yaxes(title="share of 5x5", col=1)
    numbers = frame(values, labels, ["channel", "branch"])
    second = "Every channel's share of the 5x5 branch:", curves
    return Exhibit(panels.mean_shares(values, labels), numbers, means(wide, labels), second=second)


def taps(values: Values, labels: Sequence[str], site: str) -> Exhibit:
    """values: (site, A (N, outputs, inputs, h, w)) of AW-convolutions; the second figure has the outputs of one."""
    if site not in dict(values):
        raise OutOfRange(f"No AW-convolution in a block {site}; its blocks are {', '.join(dict(values))}.")
    numbers = frame(values, labels, ["output", "input", "row", "column"])
    closer = panels.kernel_outputs(site, dict(values)[site], labels)
    second = f"The gates of block {site}, mean over its inputs: outputs down, taps across.", closer
    return Exhibit(panels.kernel_means(values, labels), numbers, means(values, labels), second=second)


def templates(
    readings: Sequence[Reading], labels: Sequence[str], pictures: Sequence[np.ndarray], kernel: np.ndarray, channel: int
) -> Exhibit:
    """One channel of a CRA block for several pictures; the second figure has the grids (C, h, w) of all channels."""
    import pandas as pd

    parts, words = [], []
    for label, one in zip(labels, readings, strict=True):
        sums, count = one.sums, np.arange(len(one.gate))
        total, bias, gate = sums[channel], one.bias[channel], one.gate[channel]
        words.append(f"{label}: the sum of E · X is {total:+.3f}; with the bias {bias:+.3f} it is {total + bias:+.3f}, "
                     f"and the gate sigmoid({total + bias:+.3f}) = {gate:.3f} lets {100 * gate:.0f} % of the channel "
                     "through.")  # fmt: skip
        parts.append(pd.DataFrame({"picture": label, "channel": count, "sum of E · X": sums, "bias": one.bias,
                                   "sum + bias": sums + one.bias, "gate": one.gate}))  # fmt: skip
    numbers = pd.concat(parts, ignore_index=True)
    table = numbers[numbers["channel"] == channel].set_index("picture")
    figure = panels.template_rows(readings, labels, pictures, channel)
    sheet = "The weights that the block lays on its grid, all channels in reading order, 16 in a row:"
    return Exhibit(figure, numbers, table, words, (sheet, panels.template_mosaic(kernel)))


def means(values: Values, labels: Sequence[str]) -> "pd.DataFrame":
    """Mean attention, a row a block and a column a picture."""
    import pandas as pd

    rows = {site: T.reshape(len(T), -1).mean(1, dtype=np.float64) for site, T in values}
    return pd.DataFrame.from_dict(rows, "index", columns=[f"mean, {label}" for label in labels]).rename_axis("block")


def in_a_row(values: Values) -> int:
    """Panels in a row: those of a stage, where stages have three blocks."""
    return 3 if len(values) % 3 == 0 else min(4, len(values))
