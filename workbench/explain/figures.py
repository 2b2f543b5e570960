"""Figures, in plotly; pure functions of plain values."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

BLUE, GREY, LINES = "#2a6fbb", "#8a8f98", "rgba(128, 128, 128, 0.2)"
COLOURS = (BLUE, "#d9822b", "#3a9d6e", "#8e5bb5", "#c94f6d", "#6b7280", "#b59a2b", "#2aa5b5")


def published_and_measured(
    labels: list[str],
    published: list[float | None],
    measured: list[list[float]],
    title: str,
    protocols: list[str],
    origin: str = "here",
) -> go.Figure:
    """Two panels with the same rows and separate axes: the printed single runs, and every seed measured here.

    title: the metric with its unit; protocols: what each row was measured with, shown on hover; origin: by whom.
    """
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=("published", f"measured {origin}")
    )
    rows = list(zip(labels, published, measured, protocols, strict=True))
    printed = [(number, label, "as printed") for label, number, _, _ in rows if number is not None]
    seeds = [(number, label, protocol) for label, _, numbers, protocol in rows for number in numbers]
    means = [(sum(numbers) / len(numbers), label, protocol) for label, _, numbers, protocol in rows if numbers]
    diamond = {"color": GREY, "size": 11, "symbol": "diamond"}
    dot = {"color": BLUE, "size": 9, "opacity": 0.45}
    bar = {"color": BLUE, "size": 22, "symbol": "line-ns-open", "line": {"width": 3}}
    for points, marker, name, column in (
        (printed, diamond, "published, one run", 1),
        (seeds, dot, "one seed", 2),
        (means, bar, "mean", 2),
    ):
        x, y, text = zip(*points, strict=True) if points else ((), (), ())
        hover = "%{y}: %{x:.2f}<br>%{text}<extra></extra>"
        figure.add_scatter(
            x=x, y=y, text=text, mode="markers", marker=marker, name=name, hovertemplate=hover, row=1, col=column
        )
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1], gridcolor=LINES)
    figure.update_xaxes(title=title, gridcolor=LINES)
    return _plain(figure, 150 + 36 * len(labels))


def curves(runs: dict[str, list[list[float]]], title: str) -> go.Figure:
    """One line a label, the mean of its runs, in the band from the lowest to the highest.

    runs: label -> one list of values by epoch for each seed.
    """
    figure = go.Figure()
    for number, (label, mine) in enumerate(runs.items()):
        colour = COLOURS[number % len(COLOURS)]
        columns = [[run[i] for run in mine if i < len(run)] for i in range(max(map(len, mine)))]
        epochs = list(range(1, len(columns) + 1))
        if len(mine) > 1:
            figure.add_scatter(
                x=epochs + epochs[::-1],
                y=[max(column) for column in columns] + [min(column) for column in columns][::-1],
                mode="lines",
                fill="toself",
                fillcolor=colour,
                opacity=0.18,
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=label,
            )
        figure.add_scatter(
            x=epochs,
            y=[sum(column) / len(column) for column in columns],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            name=f"{label} (n = {len(mine)})" if len(mine) > 1 else f"{label} (one seed)",
            legendgroup=label,
        )
    longest = max((len(run) for mine in runs.values() for run in mine), default=0)
    figure.update_xaxes(title="epoch", gridcolor=LINES, dtick=1 if longest <= 20 else None)
    figure.update_yaxes(title=title, rangemode="tozero", gridcolor=LINES)
    return _plain(figure, 420)


def _plain(figure: go.Figure, height_px: int) -> go.Figure:
    return figure.update_layout(
        height=height_px,
        margin={"l": 10, "r": 10, "t": 60, "b": 10},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
