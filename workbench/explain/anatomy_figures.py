"""Small maps, grids and vectors of one block, in plotly; pure functions of plain values."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.explain.anatomy import Kept
from workbench.explain.anatomy_lines import Panel, Stage
from workbench.explain.figures import BLUE, COLOURS, LINES, plain
from workbench.explain.pictures import SCALE

MARK = COLOURS[1]
WRITTEN = 5  # cells a side, up to which their values stand in them
HEIGHT_PX = 230

Range = tuple[float, float]


def small(panel: Panel, scale: Range | None = None) -> go.Figure:
    """One map or grid as cells, or one vector as bars; what the lines are about is outlined, or orange.

    scale: lowest and highest value of the colours; the panel's own by default.
    """
    figure = go.Figure()
    add(figure, panel, scale, 1, 1)
    look(figure, panel, 1, 1)
    plain(figure, HEIGHT_PX, words(panel)).update_layout(margin={"l": 5, "r": 5, "t": 36, "b": 5}, showlegend=False)
    return figure.update_layout(title={"text": panel.title, "font": {"size": 14}, "x": 0.5, "xanchor": "center"})


def sheet(stages: Sequence[Stage], title: str) -> go.Figure:
    """All steps of a block in one figure: a row a step, with the name of the step before each panel's title."""
    columns = max(len(stage.panels) for stage in stages)
    titles = [
        f"{stage.name}: {stage.panels[i].title}" if i < len(stage.panels) else ""
        for stage in stages
        for i in range(columns)
    ]
    figure = make_subplots(len(stages), columns, subplot_titles=titles, vertical_spacing=0.25 / len(stages))
    for row, stage in enumerate(stages, 1):
        for column, panel in enumerate(stage.panels, 1):
            add(figure, panel, scale_of(stage), row, column)
            look(figure, panel, row, column)
        for column in range(len(stage.panels) + 1, columns + 1):
            figure.update_xaxes(visible=False, row=row, col=column).update_yaxes(visible=False, row=row, col=column)
    meta = f"{title}. " + " ".join(words(panel) for stage in stages for panel in stage.panels)
    return plain(figure, HEIGHT_PX * len(stages) + 40, meta).update_layout(title=title, showlegend=False)


def pooled(kept: Kept, values: np.ndarray, channel: int) -> list[Panel]:
    """The map, its grid, and the map rebuilt from the grid."""
    size = len(kept.grid)
    return [
        Panel(f"X, channel {channel}", values),
        Panel(f"its {size}x{size} grid", kept.grid),
        Panel("rebuilt from the grid", kept.back),
    ]


def scale_of(stage: Stage) -> Range | None:
    """One scale for the maps before and after, so that their colours compare; each its own elsewhere."""
    return shared(stage.panels) if stage.name == "fuse" else None


def shared(panels: Sequence[Panel]) -> Range:
    """From the lowest to the highest value of all panels."""
    return min(float(panel.values.min()) for panel in panels), max(float(panel.values.max()) for panel in panels)


def words(panel: Panel) -> str:
    """The panel in one sentence, for those who do not see it."""
    values = panel.values
    kind = f"{values.shape[0]}x{values.shape[1]} values" if values.ndim == 2 else f"{len(values)} values"
    at = "" if panel.mark is None else f"; marked ({', '.join(map(str, panel.mark))}), {values[panel.mark]:.4g}"
    return f"{panel.title}: {kind} from {values.min():.4g} to {values.max():.4g}{at}."


def add(figure: go.Figure, panel: Panel, scale: Range | None, row: int, column: int) -> None:
    """The trace of a panel."""
    where = {"row": row, "col": column} if figure._has_subplots() else {}
    if panel.values.ndim == 1:
        colours = [BLUE] * len(panel.values)
        if panel.mark:
            colours[panel.mark[0]] = MARK
        bars = go.Bar(y=panel.values, marker={"color": colours, "line": {"width": 0}},
                      hovertemplate="%{x}: %{y:.5g}<extra></extra>")  # fmt: skip
        figure.add_trace(bars, **where)
        return
    low, high = scale or shared([panel])
    written = max(panel.values.shape) <= WRITTEN
    cells = go.Heatmap(z=panel.values, colorscale=SCALE, zmin=low, zmax=high, showscale=False, xgap=int(written),
                       ygap=int(written), texttemplate="%{z:.2f}" if written else None,
                       hovertemplate="(%{y}, %{x}): %{z:.5g}<extra></extra>")  # fmt: skip
    figure.add_trace(cells, **where)


def look(figure: go.Figure, panel: Panel, row: int, column: int) -> None:
    """The axes of a panel, and the outline of what is marked."""
    where = {"row": row, "col": column} if figure._has_subplots() else {}
    if panel.values.ndim == 1:
        figure.update_xaxes(showgrid=False, **where).update_yaxes(gridcolor=LINES, nticks=4, **where)
        return
    bare = {"showgrid": False, "zeroline": False, "showticklabels": False, "constrain": "domain"}
    figure.update_xaxes(**bare, **where)
    trace = figure.data[-1]
    figure.update_yaxes(**bare, autorange="reversed", scaleanchor=trace.xaxis or "x", **where)
    if panel.mark:
        i, j = panel.mark
        figure.add_shape(type="rect", x0=j - 0.5, x1=j + 0.5, y0=i - 0.5, y1=i + 0.5, line={"color": MARK, "width": 3},
                         xref=trace.xaxis or "x", yref=trace.yaxis or "y")  # fmt: skip
