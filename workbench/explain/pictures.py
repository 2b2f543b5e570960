"""Figures of what attention does with pictures, in plotly; pure functions of what maps.py and cam.py return."""

import base64
import io
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb
from plotly.subplots import make_subplots

from workbench.errors import OutOfRange
from workbench.explain.figures import COLOURS, DASHES, GREY, LINES, looks, plain

SCALE = "Viridis"  # its lightness rises with its value, so it reads without hue and on any page


def contributions(values: dict[str, Sequence[Sequence[tuple[str, str, float]]]]) -> go.Figure:
    """The share of the earlier attention in each connection, a line a network and dimension.  DCA Fig. 5.

    values: label -> for each seed the (site, dim, ratio) of every connection.  The line is the mean of the seeds, each
    of which is a dot.  Dotted verticals stand where a stage begins.  A dimension may be connected at some sites only.
    """
    figure = go.Figure()
    dims = {(label, dim): None for label, seeds in values.items() for seed in seeds for _, dim, _ in seed}
    several = {label for label, dim in dims if sum(other == label for other, _ in dims) > 1}
    sites: list[str] = []
    for label, seeds in values.items():
        own = sorted({site for seed in seeds for site, _, _ in seed}, key=lambda site: [*map(int, site.split("."))])
        if sites and own and own != sites:
            raise OutOfRange(f"{label!r} has other sites than the networks before it; draw each backbone on its own.")
        sites = own or sites
    for number, (label, dim) in enumerate(dims):
        runs = [[(site, ratio) for site, mine, ratio in seed if mine == dim] for seed in values[label]]
        add_ratios(figure, runs, sites, f"{label}, {dim}" if label in several else label, *looks(number))
    for number, (one, other) in enumerate(pairwise(sites), 1):
        if stage(one) != stage(other):
            figure.add_vline(number + 0.5, line={"color": GREY, "width": 1, "dash": "dot"})
            figure.add_annotation(x=number + 0.5, y=1.02, yref="paper", text=f"stage {stage(other)}", xanchor="left",
                                  yanchor="bottom", showarrow=False)  # fmt: skip
    figure.update_xaxes(title="connection, by the block that hears (stage.block)", gridcolor=LINES, zeroline=False,
                        tickvals=[*range(1, len(sites) + 1)], ticktext=sites)  # fmt: skip
    figure.update_yaxes(title="share of the earlier attention", range=[-0.03, 1.03], gridcolor=LINES)
    return plain(figure, 440, f"Share of the earlier attention in each connection of {', '.join(values)}.")


def channel_curves(
    values: Sequence[tuple[str, np.ndarray]], labels: Sequence[str], order: str = "index", columns: int = 4
) -> go.Figure:
    """Attention over channels, a panel a layer and a line a picture, all on one vertical axis.  CRA Fig. 8.

    values: (site, T (N, C)) of each layer; labels: of the N pictures.  order: `index`, or `sorted` by the mean over the
    pictures, falling, the same for all of them.
    """
    if order not in ("index", "sorted"):
        raise OutOfRange(f"Order {order!r} of the channels; use index or sorted.")
    rows = -(-len(values) // columns)
    figure = make_subplots(
        rows,
        min(columns, len(values)),
        shared_yaxes="all",
        subplot_titles=[site for site, _ in values],
        vertical_spacing=0.3 / rows,
        horizontal_spacing=0.03,
    )
    for panel, (site, T) in enumerate(values):
        channels = np.argsort(-T.mean(0), kind="stable") if order == "sorted" else np.arange(T.shape[1])
        for number, (label, line) in enumerate(zip(labels, T, strict=True)):
            figure.add_scatter(
                x=np.arange(T.shape[1]),
                y=line[channels].astype(np.float32),
                customdata=channels.astype(np.int16),
                mode="lines",
                line={"color": COLOURS[number % len(COLOURS)], "width": 1, "dash": DASHES[number % len(DASHES)]},
                name=label,
                legendgroup=label,
                showlegend=panel == 0,
                hovertemplate=f"{site}, {label}<br>channel %{{customdata}}: %{{y:.3f}}<extra></extra>",
                row=panel // columns + 1,
                col=panel % columns + 1,
            )
    figure.update_xaxes(gridcolor=LINES)
    figure.update_xaxes(title="channel" if order == "index" else "channel, by mean attention", row=rows)
    figure.update_yaxes(gridcolor=LINES)
    figure.update_yaxes(title="attention", col=1)
    meta = f"Attention over channels in {len(values)} layers for {', '.join(labels)}."
    return plain(figure, 110 + 210 * rows, meta).update_layout(legend={"y": -0.25 / rows - 0.06})


def attention_heat(values: Sequence[tuple[str, np.ndarray]], order: str = "index") -> go.Figure:
    """Attention, mean over the pictures, as one row of cells a layer; blank where a layer has fewer channels.

    values and order as in `channel_curves`.
    """
    if order not in ("index", "sorted"):
        raise OutOfRange(f"Order {order!r} of the channels; use index or sorted.")
    widest = max(T.shape[1] for _, T in values)
    cells = np.full((len(values), widest), np.nan, np.float32)
    for row, (_, T) in zip(cells, values, strict=True):
        means = T.mean(0)
        row[: len(means)] = -np.sort(-means) if order == "sorted" else means
    sites = [site for site, _ in values]
    figure = go.Figure(
        go.Heatmap(
            z=cells,
            y=sites,
            colorscale=SCALE,
            colorbar={"title": {"text": "attention", "side": "right"}},
            hoverongaps=False,
            hovertemplate=f"%{{y}}, {'channel' if order == 'index' else 'rank'} %{{x}}: %{{z:.3f}}<extra></extra>",
        )
    )
    figure.update_xaxes(title="channel" if order == "index" else "channel, by mean attention", showgrid=False)
    figure.update_yaxes(title="layer (stage.block)", type="category", autorange="reversed", showgrid=False)
    return plain(figure, 130 + 24 * len(values), f"Mean attention of {len(values)} layers over their channels.")


def overlay_grid(
    pictures: np.ndarray,
    maps: Sequence[Sequence[np.ndarray | None]],
    columns: Sequence[str],
    rows: Sequence[str],
    title: str = "heat",
) -> go.Figure:
    """Pictures under heat maps, rows x columns; None leaves a picture as it is.  CRA Fig. 4, DCA Fig. 4.

    pictures: uint8, (H, W, 3) for every cell, (columns, H, W, 3) or (rows, columns, H, W, 3), or what broadcasts to it.
    maps: (H, W) in [0, 1].  Each cell is one JPEG, about 10 kB at 224 px.  title: of the colour bar.
    """
    height, width = pictures.shape[-3:-1]
    grid = np.broadcast_to(pictures, (len(rows), len(columns), height, width, 3))
    figure = make_subplots(len(rows), len(columns), column_titles=list(columns), horizontal_spacing=0.01,
                           vertical_spacing=0.04 / len(rows))  # fmt: skip
    for r, (row, heats) in enumerate(zip(rows, maps, strict=True)):
        for c, (column, heat) in enumerate(zip(columns, heats, strict=True)):
            cell = go.Image(source=jpeg(overlay(grid[r, c], heat)), hovertemplate=f"{row}, {column}<extra></extra>")
            figure.add_trace(cell, r + 1, c + 1)
        figure.update_yaxes(title={"text": row, "standoff": 6, "font": {"size": 11}}, row=r + 1, col=1)
    bar = {"colorscale": SCALE, "cmin": 0, "cmax": 1, "showscale": True, "opacity": 0, "color": [0]}
    bar["colorbar"] = {"title": {"text": title, "side": "right"}, "thickness": 14}
    figure.add_scatter(x=[0], y=[0], mode="markers", marker=bar, hoverinfo="skip", showlegend=False, row=1, col=1)
    figure.update_xaxes(visible=False, range=[-0.5, width - 0.5])
    figure.update_yaxes(range=[height - 0.5, -0.5], showticklabels=False, showgrid=False, zeroline=False)
    cell_px = 150 * height // width
    meta = f"Heat maps over pictures; rows: {', '.join(rows)}; columns: {', '.join(columns)}."
    return plain(figure, 80 + cell_px * len(rows), meta).update_layout(width=150 + 158 * len(columns))


def overlay(picture: np.ndarray, heat: np.ndarray | None) -> np.ndarray:
    """The picture in grey under the colour of the heat: (H, W, 3) uint8; the picture itself without a map.

    The colour covers a fifth of the picture where the heat is 0, so that it is seen, and three quarters where it is 1.
    """
    if picture.dtype != np.uint8:
        raise OutOfRange(f"A picture of {picture.dtype}; give uint8 values from 0 to 255, as before normalisation.")
    if heat is None:
        return picture
    if heat.shape != picture.shape[:2] or not (np.isfinite(heat).all() and heat.min() >= 0 and heat.max() <= 1):
        raise OutOfRange(f"A heat map of shape {heat.shape} for a picture {picture.shape[:2]}; give (H, W) in [0, 1].")
    grey = picture @ np.array([0.299, 0.587, 0.114])
    share = (0.2 + 0.55 * heat)[..., None]
    return np.round((1 - share) * grey[..., None] + share * LUT[np.round(255 * heat).astype(int)]).astype(np.uint8)


def jpeg(picture: np.ndarray) -> str:
    """A data URI of the picture."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def colours(shares: Iterable[float]) -> np.ndarray:
    """(256, 3) values from 0 to 255 along SCALE."""
    return np.array([unlabel_rgb(colour) for colour in sample_colorscale(SCALE, list(shares))])


def stage(site: str) -> str:
    return site.partition(".")[0]


def add_ratios(
    figure: go.Figure, runs: list[list[tuple[str, float]]], among: list[str], name: str, colour: str, symbol: str
) -> None:
    """The mean over the seeds as a line, and each seed as a dot; `among` are the sites of the axis."""
    sites = [site for site, _ in runs[0]]
    numbers = [among.index(site) + 1 for site in sites]
    ratios = np.array([[ratio for _, ratio in run] for run in runs])
    look = {"color": colour, "symbol": symbol, "size": 8}
    figure.add_scatter(
        x=numbers,
        y=ratios.mean(0),
        text=sites,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker=look,
        name=f"{name} (n = {len(runs)})" if len(runs) > 1 else f"{name} (one seed)",
        legendgroup=name,
        hovertemplate=f"{name}<br>connection %{{x}}, block %{{text}}: %{{y:.3f}}<extra></extra>",
    )
    if len(runs) > 1:
        figure.add_scatter(
            x=numbers * len(runs),
            y=ratios.ravel(),
            mode="markers",
            marker=look | {"size": 5, "opacity": 0.5},
            showlegend=False,
            legendgroup=name,
            hovertemplate=f"{name}, one seed<br>connection %{{x}}: %{{y:.3f}}<extra></extra>",
        )


LUT = colours(np.linspace(0, 1, 256))
