"""Figures of what single blocks do: two pictures apart, kernels of a picture's own, and the templates of CRA."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import OutOfRange
from workbench.explain.figures import COLOURS, LINES, SYMBOLS, plain
from workbench.explain.maps import Values
from workbench.explain.pictures import SCALE, jpeg
from workbench.explain.templates import Reading

DIVERGING = "RdBu_r"  # blue below 0, red above


def on_one_scale(figures: Sequence[go.Figure]) -> None:
    """Give all panels of these figures one vertical axis, so that networks side by side can be compared."""
    heights = np.concatenate([np.asarray(trace.y, float) for figure in figures for trace in figure.data])
    low, high = float(heights.min()), float(heights.max())
    margin = 0.05 * (high - low) or 0.05
    for figure in figures:
        figure.update_yaxes(range=[low - margin, high + margin])


def in_the_same_colours(figures: Sequence[go.Figure]) -> None:
    """Give all heat maps of these figures one scale of colours, for the same reason."""
    cells = np.concatenate([np.ravel(trace.z) for figure in figures for trace in figure.data])
    for figure in figures:
        figure.update_traces(zmin=float(np.nanmin(cells)), zmax=float(np.nanmax(cells)))


def differences(values: Values, labels: Sequence[str], order: str = "index", columns: int = 3) -> go.Figure:
    """Attention of the first picture minus that of the second over channels, a panel a block, on one axis.

    values: (site, T (2 or more, C)).  order: `index`, or `sorted` by the difference, falling.
    """
    if order not in ("index", "sorted"):
        raise OutOfRange(f"Order {order!r} of the channels; use index or sorted.")
    if len(labels) < 2:
        raise OutOfRange(f"{len(labels)} picture; a difference is between two.")
    rows = -(-len(values) // columns)
    figure = make_subplots(rows, min(columns, len(values)), shared_yaxes="all",
                           subplot_titles=[site for site, _ in values],
                           vertical_spacing=0.3 / rows, horizontal_spacing=0.03)  # fmt: skip
    for panel, (site, T) in enumerate(values):
        difference = T[0] - T[1]
        channels = np.argsort(-difference, kind="stable") if order == "sorted" else np.arange(len(difference))
        figure.add_scatter(
            x=np.arange(len(difference)),
            y=difference[channels],
            customdata=channels,
            mode="lines",
            fill="tozeroy",
            line={"color": COLOURS[0], "width": 1},
            showlegend=False,
            hovertemplate=f"{site}<br>channel %{{customdata}}: %{{y:+.3f}}<extra></extra>",
            row=panel // columns + 1,
            col=panel % columns + 1,
        )
    figure.update_xaxes(gridcolor=LINES)
    figure.update_xaxes(title="channel" if order == "index" else "channel, by difference", row=rows)
    figure.update_yaxes(gridcolor=LINES)
    figure.update_yaxes(title="difference", col=1)
    return plain(
        figure, 110 + 190 * rows, f"Attention of {labels[0]} minus that of {labels[1]} in {len(values)} blocks."
    )


def enlarged(values: Values, side: int, own: bool) -> tuple[list[list[np.ndarray]], float, float]:
    """Maps (site, T (N, H, W)) as rows of pictures and columns of blocks, each (side, side) in [0, 1]; and the range.

    Each cell repeats its value.  own: every map from its lowest value to its highest; else all from the lowest value of
    all to the highest.  A constant map becomes 0.5.
    """
    low, high = (float(f([f(T) for _, T in values])) for f in (np.min, np.max))

    def heat(T: np.ndarray) -> np.ndarray:
        a, b = (T.min(), T.max()) if own else (low, high)
        shares = np.clip((T - a) / (b - a), 0, 1) if b > a else np.full(T.shape, 0.5)
        rows, columns = (np.arange(side) * length // side for length in T.shape)
        return shares[rows][:, columns]

    count = len(values[0][1])
    return [[heat(T[n]) for _, T in values] for n in range(count)], low, high


def mean_shares(values: Values, labels: Sequence[str]) -> go.Figure:
    """The share of the wider branch, mean over channels, a line a picture; bars reach from the lowest channel to the
    highest.  values: (site, T (N, C, 2)) of `branch_shares`."""
    figure = go.Figure()
    sites = [site for site, _ in values]
    for number, label in enumerate(labels):
        wide = [T[number, :, 1] for _, T in values]
        means = np.array([share.mean() for share in wide])
        colour = COLOURS[number % len(COLOURS)]
        figure.add_scatter(
            x=np.arange(len(sites)) + 0.12 * (number - (len(labels) - 1) / 2),
            y=means,
            error_y={
                "array": [share.max() - mean for share, mean in zip(wide, means, strict=True)],
                "arrayminus": [mean - share.min() for share, mean in zip(wide, means, strict=True)],
                "thickness": 1,
            },
            text=sites,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 8, "symbol": SYMBOLS[number % len(SYMBOLS)]},
            name=label,
            hovertemplate=f"%{{text}}, {label}: %{{y:.3f}}<extra></extra>",
        )
    figure.add_hline(0.5, line={"color": LINES, "width": 2})
    figure.update_xaxes(title="block (stage.block)", tickvals=[*range(len(sites))], ticktext=sites, gridcolor=LINES)
    figure.update_yaxes(title="share of the 5x5 branch", range=[-0.03, 1.03], gridcolor=LINES)
    return plain(figure, 420, f"Share of the branch that sees 5x5 in {len(sites)} blocks for {', '.join(labels)}.")


def kernel_means(values: Values, labels: Sequence[str]) -> go.Figure:
    """The gate of each tap, mean over outputs and inputs: rows of pictures, columns of blocks, on one scale.

    values: (site, A (N, outputs, inputs, h, w)) of `kernel_attention`.
    """
    figure = make_subplots(len(labels), len(values), column_titles=[site for site, _ in values],
                           horizontal_spacing=0.01, vertical_spacing=0.04)  # fmt: skip
    for row, label in enumerate(labels, 1):
        figure.update_yaxes(title={"text": label, "standoff": 4, "font": {"size": 11}}, row=row, col=1)
    for column, (site, A) in enumerate(values, 1):
        for row, (label, taps) in enumerate(zip(labels, A.mean((1, 2)), strict=True), 1):
            hover = f"{site}, {label}<br>tap %{{y}}, %{{x}}: %{{z:.3f}}<extra></extra>"
            cells = go.Heatmap(z=taps, coloraxis="coloraxis", texttemplate="%{z:.2f}", hovertemplate=hover)
            figure.add_trace(cells, row, column)
    bar = {"title": {"text": "gate", "side": "right"}, "thickness": 14}
    figure.update_layout(coloraxis={"colorscale": SCALE, "colorbar": bar})
    meta = f"Mean gate of every tap of the kernel in {len(values)} blocks for {', '.join(labels)}."
    width_px = 200 + 130 * len(values)
    return plain(squares(figure), 110 + 130 * len(labels), meta).update_layout(width=width_px)


def kernel_outputs(site: str, A: np.ndarray, labels: Sequence[str]) -> go.Figure:
    """The gates of one block, a panel a picture: outputs down, taps across, the mean over inputs.

    A: (N, outputs, inputs, h, w).
    """
    height, width = A.shape[-2:]
    taps = [f"{j},{k}" for j in range(height) for k in range(width)]
    figure = make_subplots(1, len(labels), column_titles=[*labels], shared_yaxes=True, horizontal_spacing=0.03)
    for column, (label, gates) in enumerate(zip(labels, A.mean(2), strict=True), 1):
        hover = f"{site}, {label}<br>output %{{y}}, tap %{{x}}: %{{z:.3f}}<extra></extra>"
        rows = gates.reshape(len(gates), -1)
        figure.add_trace(go.Heatmap(z=rows, x=taps, coloraxis="coloraxis", hovertemplate=hover), 1, column)
    figure.update_xaxes(title="tap (row,column)", type="category", showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False).update_yaxes(title="output channel", col=1)
    bar = {"title": {"text": "gate", "side": "right"}, "thickness": 14}
    figure.update_layout(coloraxis={"colorscale": SCALE, "colorbar": bar})
    return plain(figure, 460, f"Gates of block {site}, outputs by taps, for {', '.join(labels)}.")


def template_rows(
    readings: Sequence[Reading], labels: Sequence[str], pictures: Sequence[np.ndarray], channel: int
) -> go.Figure:
    """One channel of a CRA block, a row a picture: the picture, the template, the map, and their product.

    pictures: (H, W, 3) uint8.  Each column has one colour scale, centred on 0.
    """
    titles = ("picture", "template E", "map X", "product E · X")
    figure = make_subplots(len(readings), 4, column_titles=titles, horizontal_spacing=0.02,
                           vertical_spacing=0.06 / len(readings))  # fmt: skip
    limits = [0.0, 0.0, 0.0]
    for row, (one, label, picture) in enumerate(zip(readings, labels, pictures, strict=True), 1):
        figure.add_trace(go.Image(source=jpeg(picture), hovertemplate=f"{label}<extra></extra>"), row, 1)
        E, X = one.template[channel], one.map[channel]
        for number, values in enumerate((E, X, E * X)):
            limits[number] = max(limits[number], float(np.abs(values).max()))
            hover = f"{titles[number + 1]}, {label}<br>row %{{y}}, column %{{x}}: %{{z:.4f}}<extra></extra>"
            cells = go.Heatmap(z=values, coloraxis=f"coloraxis{number + 1}", hovertemplate=hover)
            figure.add_trace(cells, row, number + 2)
        figure.update_yaxes(title={"text": label, "standoff": 4, "font": {"size": 11}}, row=row, col=1)
    squares(figure)
    height_px = 130 + 220 * len(readings)
    for number, limit in enumerate(limits, 1):
        left, right = figure.layout[f"xaxis{number + 1}"].domain
        bar = {"orientation": "h", "x": (left + right) / 2, "len": 0.9 * (right - left), "y": -12 / height_px,
               "yanchor": "top", "thickness": 10, "nticks": 4}  # fmt: skip
        axis = {"colorscale": DIVERGING, "cmin": -limit or -1, "cmax": limit or 1, "colorbar": bar}
        figure.update_layout({f"coloraxis{number}": axis})
    meta = f"Template, map and product of channel {channel} for {', '.join(labels)}; red above 0, blue below."
    return plain(figure, height_px, meta).update_layout(margin={"b": 60})


def template_mosaic(templates: np.ndarray, columns: int = 16) -> go.Figure:
    """The templates (C, h, w) of all channels as one sheet, in reading order, on one scale centred on 0."""
    count, h, w = templates.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (h + 1), columns * (w + 1)), np.nan)
    channel = np.zeros(sheet.shape, int)
    for c, E in enumerate(templates):
        top, left = c // columns * (h + 1), c % columns * (w + 1)
        sheet[top : top + h, left : left + w] = E
        channel[top : top + h, left : left + w] = c
    limit = float(np.abs(templates).max()) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=sheet[:-1, :-1],
            customdata=channel[:-1, :-1],
            colorscale=DIVERGING,
            zmin=-limit,
            zmax=limit,
            colorbar={"thickness": 10, "nticks": 5},
            hoverongaps=False,
            hovertemplate="channel %{customdata}: %{z:.4f}<extra></extra>",
        )
    )
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", scaleanchor="x", constrain="domain")
    meta = f"Templates of {count} channels, {columns} in a row; red above 0, blue below."
    return plain(figure, 40 + 60 * rows, meta).update_layout(margin={"t": 20})


def squares(figure: go.Figure) -> go.Figure:
    """Cells as wide as high, the first row above, no ticks."""
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, constrain="domain")
    figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False, constrain="domain", autorange="reversed")
    for number, axis in enumerate(figure.select_yaxes(), 1):
        axis.scaleanchor = f"x{number}" if number > 1 else "x"
    return figure
