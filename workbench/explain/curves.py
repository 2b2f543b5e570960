"""Figures of runs over their epochs, in plotly; pure functions of plain values.  `layout.meta` says each in words."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import OutOfRange
from workbench.explain.figures import COLOURS, DASHES, GREY, LINES, mean, plain

MARKED = 20  # epochs up to which each has a mark
MANY = 12  # lines above which they are thin; above twice as many they are named on hover alone


def curves(runs: dict[str, list[list[float]]], title: str, smoothing: float = 0.0, log: bool = False) -> go.Figure:
    """One line a label, the mean of its runs, in the band from the lowest to the highest.

    runs: label -> one list of values by epoch for each seed.  smoothing: see `smoothed`; the plain means stay, faint.
    """
    if not 0 <= smoothing < 1:
        raise OutOfRange(f"Smoothing {smoothing:g}: it must be at least 0 and below 1.")
    width, traces = 2 if len(runs) <= MANY else 1, []
    for number, (label, mine) in enumerate(runs.items()):
        name = f"{label} (n = {len(mine)})" if len(mine) > 1 else f"{label} (one seed)"
        turn, place = divmod(number, len(COLOURS))
        line = {"color": COLOURS[place], "width": width, "dash": DASHES[turn % len(DASHES)]}
        traces += curve_traces(mine, name, label, line, smoothing)
    figure = go.Figure(traces)
    by_epoch(figure, [run for mine in runs.values() for run in mine])
    figure.update_yaxes(title=title, gridcolor=LINES, **{"type": "log"} if log else {"rangemode": "tozero"})
    said = f"{title} by epoch{', logarithmic' * log} of {len(runs)} lines, each the mean over its seeds"
    more = f"; smoothed by {smoothing:g}, the plain means faint" if smoothing else ""
    if len(runs) > 2 * MANY:
        figure.update_layout(showlegend=False)
    height_px = 420 + 12 * max(0, min(len(runs), MANY) - 4)
    above = {"yanchor": "bottom", "y": 1.02}  # below, a legend of several rows would run into the axis title
    return plain(figure, height_px, f"{said}{more}.").update_layout(legend=above)


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average m_t = w m_(t-1) + (1 - w) x_t from m_0 = 0, divided by 1 - w^t, so that it starts at
    x_1 and a constant stays what it is."""
    shown, average = [], 0.0
    for step, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        shown.append(average / (1 - weight**step))
    return shown


class Trained(NamedTuple):
    """Values by epoch of one network's runs, one list for each seed."""

    training: list[list[float]]
    test: list[list[float]]


def training_and_test_curves(runs: dict[str, Trained], title: str) -> go.Figure:
    """Training dashed and test solid in one colour a label, means in the band of the seeds.  CRA Fig. 3 and 6."""
    figure = go.Figure()
    for number, (label, (training, test)) in enumerate(runs.items()):
        for kind, mine, dash in (("test", test, "solid"), ("training", training, "dash")):
            if mine:
                name = f"{label}, {kind} ({f'n = {len(mine)}' if len(mine) > 1 else 'one seed'})"
                line = {"color": COLOURS[number % len(COLOURS)], "width": 2, "dash": dash}
                add_curve(figure, mine, name, f"{label}, {kind}", line)
    by_epoch(figure, [run for both in runs.values() for mine in both for run in mine])
    figure.update_yaxes(title=title, rangemode="tozero", gridcolor=LINES)
    return plain(figure, 460, f"{title} by epoch of {', '.join(runs)}: training dashed, test solid.")


def logs_beside(
    runs: dict[str, list[list[float]]],
    logs: dict[str, list[tuple[int, float]]],
    title: str,
    best: Callable[[Sequence[float]], float] = max,
    printed: dict[str, float] | None = None,
    origin: str = "here",
) -> go.Figure:
    """The points of printed logs, and in a panel of its own every measured test curve, for tables that report epochs.

    runs: label -> one list of values by epoch for each seed; horizontal lines are the means over the seeds of the last
    epoch, the best epoch (`best`: max, min for errors) and the mean over all epochs.  logs: label -> (epoch, value).
    printed: what the print says in words, drawn as horizontal lines through the printed panel.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.1, subplot_titles=("published logs", f"measured {origin}"))
    hues = dict(zip(dict.fromkeys([*logs, *runs]), COLOURS * (1 + len(logs) + len(runs)), strict=False))
    for number, (label, points) in enumerate(logs.items()):
        x, y = zip(*points, strict=True) if points else ((), ())
        marker = {"color": hues[label], "size": 9, "symbol": ("diamond", "diamond-open")[number % 2]}
        hover = f"{label}, as printed<br>epoch %{{x}}: %{{y:.2f}}<extra></extra>"
        name = f"{label}, printed"
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=name, hovertemplate=hover, row=1, col=1)
    epochs = [epoch for points in logs.values() for epoch, _ in points] or [1]
    for text, level in (printed or {}).items():
        line = {"color": GREY, "width": 1.5, "dash": "longdash"}
        add_level(figure, (1, max(1, *epochs)), level, text, line, column=1)
    for label, mine in runs.items():
        name = f"{label} ({f'n = {len(mine)}' if len(mine) > 1 else 'one seed'})"
        add_curve(figure, mine, name, label, {"color": hues[label], "width": 2}, row=1, col=2)
        levels = [
            ("last epoch", lambda run: run[-1], "dash"),
            ("best epoch", best, "dot"),
            ("mean over epochs", mean, "longdashdot"),
        ]
        for text, rule, dash in levels:
            level, line = mean([rule(run) for run in mine]), {"color": hues[label], "width": 1.5, "dash": dash}
            add_level(figure, (1, max(map(len, mine))), level, f"{label}, {text}", line, column=2)
    figure.update_xaxes(title="epoch", gridcolor=LINES)
    figure.update_yaxes(title=title, gridcolor=LINES)
    return plain(figure, 480, f"{title} by epoch: printed points of {', '.join(logs)}; measured: {', '.join(runs)}.")


def by_epoch(figure: go.Figure, runs: list[list[float]]) -> None:
    """The axis under curves: whole epochs."""
    short = all(len(run) <= MARKED for run in runs)
    figure.update_xaxes(title="epoch", gridcolor=LINES, dtick=1 if short else None)


def add_curve(
    figure: go.Figure, runs: list[list[float]], name: str, group: str, line: dict[str, Any], **panel: int
) -> None:
    """The mean of the runs over their epochs and, of several, the band from the lowest to the highest."""
    for trace in curve_traces(runs, name, group, line):
        figure.add_trace(trace, **panel)


def curve_traces(
    runs: list[list[float]], name: str, group: str, line: dict[str, Any], smoothing: float = 0.0
) -> list[go.Scatter]:
    """The band of several runs, their faint plain mean where it is smoothed, and the line itself."""
    columns = [[run[i] for run in runs if i < len(run)] for i in range(max(map(len, runs)))]
    epochs, means = list(range(1, len(columns) + 1)), [mean(column) for column in columns]
    behind: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False, "legendgroup": group, "mode": "lines"}
    traces = []
    if len(runs) > 1:
        around = [max(column) for column in columns] + [min(column) for column in columns][::-1]
        look = {"fill": "toself", "fillcolor": line["color"], "opacity": 0.18, "line": {"width": 0}}
        traces.append(go.Scatter(x=epochs + epochs[::-1], y=around, **behind, **look))
    if smoothing:
        traces.append(go.Scatter(x=epochs, y=means, line=line | {"width": 1}, opacity=0.35, **behind))
    told = go.Scatter(
        x=epochs,
        y=smoothed(means, smoothing) if smoothing else means,
        mode="lines+markers" if len(epochs) <= MARKED else "lines",
        line=line,
        name=name,
        legendgroup=group,
        hovertemplate=f"{name}<br>epoch %{{x}}: %{{y:.2f}}<extra></extra>",
    )
    return [*traces, told]


def add_level(
    figure: go.Figure, across: tuple[int, int], level: float, name: str, line: dict[str, Any], column: int
) -> None:
    """A horizontal line in one panel."""
    hover = f"{name}: %{{y:.2f}}<extra></extra>"
    figure.add_scatter(
        x=across, y=(level, level), mode="lines", line=line, name=name, hovertemplate=hover, row=1, col=column
    )
