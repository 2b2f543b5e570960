"""Figures, in plotly; pure functions of plain values."""

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

BLUE, ORANGE, GREY = "#2a6fbb", "#d9822b", "#8a8f98"
COLOURS = (BLUE, ORANGE, "#3a9d6e", "#8e5bb5", "#c94f6d", "#6b7280", "#b59a2b", "#2aa5b5")


def published_and_measured(
    labels: list[str], published: list[float | None], measured: list[list[float]], title: str, protocol: str
) -> go.Figure:
    """Two panels with the same rows and separate axes: the printed single runs, and every seed measured here.

    title: the metric with its unit; protocol: what the right panel was measured with.
    """
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=("published", f"measured here<br>{protocol}")
    )
    shown = [(label, number) for label, number in zip(labels, published, strict=True) if number is not None]
    figure.add_scatter(
        x=[number for _, number in shown],
        y=[label for label, _ in shown],
        mode="markers",
        marker={"color": GREY, "size": 11, "symbol": "diamond"},
        name="published, one run",
    )
    seeds = [(label, number) for label, numbers in zip(labels, measured, strict=True) for number in numbers]
    figure.add_scatter(
        x=[number for _, number in seeds],
        y=[label for label, _ in seeds],
        mode="markers",
        marker={"color": BLUE, "size": 9, "opacity": 0.45},
        name="one seed",
        row=1,
        col=2,
    )
    means = [(label, sum(numbers) / len(numbers)) for label, numbers in zip(labels, measured, strict=True) if numbers]
    figure.add_scatter(
        x=[mean for _, mean in means],
        y=[label for label, _ in means],
        mode="markers",
        marker={"color": BLUE, "size": 22, "symbol": "line-ns-open", "line": {"width": 3}},
        name="mean",
        row=1,
        col=2,
    )
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1], showgrid=True, gridcolor="rgba(128,128,128,.2)")
    figure.update_xaxes(title=title, showgrid=True, gridcolor="rgba(128,128,128,.2)")
    return _plain(figure, 120 + 44 * len(labels))


def curves(runs: list[dict[str, Any]], metric: str, title: str) -> go.Figure:
    """One line a label with the band of its seeds.  runs: [{"label", "seed", "epochs", "values"}], in percent or nats."""
    figure = go.Figure()
    labels = list(dict.fromkeys(run["label"] for run in runs))
    for number, label in enumerate(labels):
        mine = [run for run in runs if run["label"] == label]
        colour = COLOURS[number % len(COLOURS)]
        length = max(len(run["values"]) for run in mine)
        columns = [[run["values"][i] for run in mine if i < len(run["values"])] for i in range(length)]
        epochs = list(range(1, length + 1))
        if len(mine) > 1:
            figure.add_scatter(
                x=epochs + epochs[::-1],
                y=[max(c) for c in columns] + [min(c) for c in columns][::-1],
                fill="toself",
                fillcolor=colour,
                opacity=0.18,
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=label,
            )
        name = f"{label} (n = {len(mine)})" if len(mine) > 1 else f"{label} (one seed)"
        figure.add_scatter(
            x=epochs,
            y=[sum(c) / len(c) for c in columns],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            name=name,
            legendgroup=label,
        )
    figure.update_xaxes(title="epoch", dtick=1 if runs and length <= 20 else None)
    figure.update_yaxes(title=title, rangemode="tozero")
    return _plain(figure, 420)


def _plain(figure: go.Figure, height_px: int) -> go.Figure:
    return figure.update_layout(
        height=height_px,
        margin={"l": 10, "r": 10, "t": 60, "b": 10},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
