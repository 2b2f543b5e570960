"""Figures show every number they are given and no other."""

import pytest

from workbench.explain.figures import curves, published_and_measured

LABELS = ["<7,7>", "w/o", "control"]


@pytest.fixture
def figure():
    return published_and_measured(
        LABELS, [22.77, 24.20, None], [[3.0, 4.0, 8.0], [94.0], []], "top-1 error (%)", ["smoke", "smoke", ""]
    )


def points(figure, name):
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return list(zip(trace.x, trace.y, strict=True))


def test_every_seed_is_a_point_and_every_print_one(figure):
    assert points(figure, "published, one run") == [(22.77, "<7,7>"), (24.20, "w/o")]
    assert points(figure, "one seed") == [(3.0, "<7,7>"), (4.0, "<7,7>"), (8.0, "<7,7>"), (94.0, "w/o")]
    assert points(figure, "mean") == [(5.0, "<7,7>"), (94.0, "w/o")]
    assert len(figure.data) == 3


def test_print_and_measurement_have_panels_and_axes_of_their_own(figure):
    """They must never be read off one scale."""
    axes = {trace.name: trace.xaxis for trace in figure.data}
    assert axes == {"published, one run": "x", "one seed": "x2", "mean": "x2"}
    assert figure.layout.xaxis2.matches is None
    left, right = (note.text for note in figure.layout.annotations)
    assert left == "published" and right.startswith("measured here")
    assert {axis.title.text for axis in (figure.layout.xaxis, figure.layout.xaxis2)} == {"top-1 error (%)"}


def test_labels_stand_in_the_order_of_the_table(figure):
    for axis in (figure.layout.yaxis, figure.layout.yaxis2):
        assert axis.categoryorder == "array"
        assert list(axis.categoryarray) == LABELS[::-1]  # plotly counts from below


def test_the_protocol_is_on_every_measured_point(figure):
    (trace,) = [trace for trace in figure.data if trace.name == "one seed"]
    assert list(trace.text) == ["smoke"] * 4
    assert "%{text}" in trace.hovertemplate


def test_nothing_measured_is_an_empty_panel():
    figure = published_and_measured(["a"], [1.0], [[]], "top-1 error (%)", [""])
    assert [len(trace.x) for trace in figure.data] == [1, 0, 0]


def test_rows_must_match():
    with pytest.raises(ValueError):
        published_and_measured(["a", "b"], [1.0], [[]], "", [""])


RUNS = {"<7,7>": [[9.0, 5.0, 2.0], [8.0, 6.0, 4.0], [10.0, 4.0, 3.0]], "w/o": [[95.0, 94.0, 93.0]]}


def test_a_curve_is_the_mean_in_the_band_of_all_seeds():
    band, line, single = curves(RUNS, "test top-1 error (%)").data
    assert list(line.x) == [1, 2, 3]
    assert list(line.y) == [9.0, 5.0, 3.0]
    assert list(band.x) == [1, 2, 3, 3, 2, 1]
    assert list(band.y) == [10.0, 6.0, 4.0, 2.0, 4.0, 8.0]  # the highest forth, the lowest back
    assert band.fill == "toself" and not band.showlegend
    assert (line.name, single.name) == ("<7,7> (n = 3)", "w/o (one seed)")
    assert list(single.y) == [95.0, 94.0, 93.0]  # one seed has no band


def test_runs_of_different_lengths_are_averaged_where_they_are():
    band, line = curves({"a": [[4.0, 2.0], [6.0]]}, "").data
    assert list(line.y) == [5.0, 2.0]
    assert list(band.y) == [6.0, 2.0, 2.0, 4.0]


def test_every_line_has_its_own_colour():
    figure = curves({str(number): [[1.0]] for number in range(8)}, "")
    assert len({trace.line.color for trace in figure.data}) == 8


def test_axes_are_named():
    figure = curves(RUNS, "test top-1 error (%)")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("epoch", "test top-1 error (%)")
