"""Figures show every number they are given and no other."""

import pytest

from workbench.errors import OutOfRange
from workbench.explain.curves import Trained, curves, logs_beside, smoothed, training_and_test_curves
from workbench.explain.figures import COLOURS, Point, accuracy_over_parameters, published_and_measured

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


def test_every_line_has_its_own_look():
    figure = curves({str(number): [[1.0]] for number in range(40)}, "")
    looks = [(trace.line.color, trace.line.dash) for trace in figure.data]
    assert len({colour for colour, _ in looks[:8]}) == 8 and {dash for _, dash in looks[:8]} == {"solid"}
    assert len({*looks}) == 40 > len({colour for colour, _ in looks})  # from the ninth on, by their dashes


def test_axes_are_named():
    figure = curves(RUNS, "test top-1 error (%)")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("epoch", "test top-1 error (%)")


def test_a_curve_tells_its_numbers_on_hover():
    (line,) = curves({"a": [[4.0, 2.0]]}, "").data
    assert line.hovertemplate.startswith("a (one seed)<br>epoch %{x}: %{y")


def named(figure):
    """Name -> trace; of those with one name, such as bands, the last."""
    return {trace.name: trace for trace in figure.data if trace.name}


BOTH = {
    "ResNet-110": Trained([[9.0, 1.0], [7.0, 3.0]], [[8.0, 4.0], [10.0, 6.0]]),
    "CRA-ResNet-110": Trained([[5.0, 0.5]], [[6.0, 3.0]]),
}


def test_training_is_dashed_and_test_solid_in_one_colour():
    figure = training_and_test_curves(BOTH, "top-1 error (%)")
    lines = named(figure)
    assert {name: list(line.y) for name, line in lines.items()} == {
        "ResNet-110, test (n = 2)": [9.0, 5.0],
        "ResNet-110, training (n = 2)": [8.0, 2.0],
        "CRA-ResNet-110, test (one seed)": [6.0, 3.0],
        "CRA-ResNet-110, training (one seed)": [5.0, 0.5],
    }
    for name, line in lines.items():
        assert line.line.dash == ("dash" if "training" in name else "solid")
    colours = [line.line.color for line in lines.values()]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    bands = [list(trace.y) for trace in figure.data if trace.fill == "toself"]
    assert bands == [[10.0, 6.0, 4.0, 8.0], [9.0, 3.0, 1.0, 7.0]]  # one seed has none
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("epoch", "top-1 error (%)")


def test_a_kind_without_runs_has_no_line():
    assert len(training_and_test_curves({"a": Trained([], [[1.0]])}, "").data) == 1


LOGS = {"ResNet50": [(20, 72.97), (25, 75.08)], "SENet": [(145, 92.38), (150, 92.26)]}
MEASURED = {"SENet": [[50.0, 90.0, 88.0], [60.0, 80.0, 86.0]]}


@pytest.fixture(scope="module")
def logs():
    return logs_beside(MEASURED, LOGS, "top-1 accuracy (%)", printed={"SENet, printed mean": 87.42})


def test_printed_points_have_a_panel_of_their_own(logs):
    traces = named(logs)
    for label, log in LOGS.items():
        trace = traces[f"{label}, printed"]
        assert list(zip(trace.x, trace.y, strict=True)) == log
        assert "diamond" in trace.marker.symbol and trace.xaxis == "x" and trace.yaxis == "y"
    assert (traces["SENet, printed mean"].y, traces["SENet, printed mean"].yaxis) == ((87.42, 87.42), "y")
    assert {trace.yaxis for name, trace in traces.items() if "printed" not in name} == {"y2"}
    assert logs.layout.yaxis2.matches is None and logs.layout.xaxis2.matches is None
    assert [note.text for note in logs.layout.annotations] == ["published logs", "measured here"]


def test_levels_are_means_over_the_seeds_of_last_best_and_mean(logs):
    traces = named(logs)
    levels = {name: trace.y for name, trace in traces.items() if trace.yaxis == "y2" and "epoch" in name}
    assert levels == {
        "SENet, last epoch": (87.0, 87.0),
        "SENet, best epoch": (88.0, 88.0),  # 90 at epoch 2 and 86 at epoch 3
        "SENet, mean over epochs": pytest.approx((226 / 6 + 228 / 6,) * 2),
    }
    assert all(traces[name].x == (1, 3) for name in levels)
    assert len({traces[name].line.dash for name in levels}) == 3
    lowest = named(logs_beside(MEASURED, LOGS, "top-1 error (%)", min))
    assert lowest["SENet, best epoch"].y == (55.0, 55.0)
    assert list(traces["SENet (n = 2)"].y) == [55.0, 85.0, 87.0]


def test_a_label_has_one_colour_in_both_panels(logs):
    traces = named(logs)
    assert traces["SENet, printed"].marker.color == traces["SENet (n = 2)"].line.color
    assert traces["SENet, printed"].marker.color != traces["ResNet50, printed"].marker.color


def test_logs_without_runs_and_runs_without_logs():
    assert len(logs_beside({}, LOGS, "").data) == 2
    assert len(logs_beside({"a": [[1.0]]}, {}, "").data) == 4
    assert len(logs_beside({}, {}, "").data) == 0


POINTS = [
    Point("ResNet50", 25_560_000, 75.90, [91.0, 92.0]),
    Point("SE", 28_090_000, 77.29, [92.0, 92.5, 94.5], 280_000),
    Point("DCA-SE", 28_650_000, 77.64),
    Point("SK", 26_150_000, None, [93.0]),
    Point("DCA-SK", 27_940_000, 77.94, [93.5]),
]
PAIRS = [("SE", "DCA-SE"), ("SK", "DCA-SK")]


@pytest.fixture(scope="module")
def over():
    return accuracy_over_parameters(POINTS, "top-1 accuracy (%)", PAIRS)


def panel(figure, axis):
    return {t.name: list(zip(t.x, t.y, strict=True)) for t in figure.data if t.yaxis == axis}


def test_every_number_stands_over_its_parameters(over):
    assert panel(over, "y") == {
        "ResNet50": [(25.56, 75.90)],
        "SE → DCA-SE": [(28.09, 77.29), (28.65, 77.64)],
        "SK → DCA-SK": [(27.94, 77.94)],
    }
    assert panel(over, "y2") == {
        "ResNet50": [(25.56, 91.5)],
        "SE → DCA-SE": [(0.28, 93.0)],  # another network was measured
        "SK → DCA-SK": [(26.15, 93.0), (27.94, 93.5)],
    }


def test_printed_and_measured_metrics_are_never_on_one_axis(over):
    assert {trace.xaxis[1:] for trace in over.data} == {"", "2"}
    assert all(trace.xaxis[1:] == trace.yaxis[1:] for trace in over.data)
    assert over.layout.yaxis2.matches is None and over.layout.xaxis2.matches is None
    assert {axis.title.text for axis in (over.layout.xaxis, over.layout.xaxis2)} == {"parameters (millions)"}
    assert {axis.title.text for axis in (over.layout.yaxis, over.layout.yaxis2)} == {"top-1 accuracy (%)"}


def test_the_connected_form_is_filled_and_joined_to_the_open_one(over):
    shapes = {(trace.name, trace.yaxis): trace.marker.symbol for trace in over.data}
    assert shapes["SE → DCA-SE", "y"] == ("square-open", "square")
    assert shapes["SE → DCA-SE", "y2"] == ("square-open",)  # alone, and still not taken for the connected form
    assert shapes["SK → DCA-SK", "y"] == ("diamond",)
    assert shapes["ResNet50", "y"] == ("circle",)
    assert all(trace.mode == "lines+markers" for trace in over.data)


def test_bars_are_from_the_lowest_to_the_highest_seed(over):
    (se,) = [trace for trace in over.data if trace.name == "SE → DCA-SE" and trace.yaxis == "y2"]
    assert (list(se.error_y.array), list(se.error_y.arrayminus)) == ([1.5], [1.0])
    assert se.text == ("SE<br>n = 3",)
    assert not any(trace.error_y.visible for trace in over.data if trace.yaxis == "y")  # print has no spread


def test_every_family_is_once_in_the_legend(over):
    shown = [trace.name for trace in over.data if trace.showlegend]
    assert sorted(shown) == ["ResNet50", "SE → DCA-SE", "SK → DCA-SK"]
    assert (
        len({trace.line.color for trace in over.data}) == len({trace.marker.symbol[0][:4] for trace in over.data}) == 3
    )


def test_many_families_are_told_apart():
    """DCA Fig. 1 has 15; colour and symbol that went on together would begin anew after 8."""
    figure = accuracy_over_parameters([Point(str(number), 1e6 * number, 70.0) for number in range(1, 65)], "")
    looks = [(trace.line.color, trace.marker.symbol[0]) for trace in figure.data]
    assert len({*looks}) == 64 > len({colour for colour, _ in looks}) == len({symbol for _, symbol in looks}) == 8
    for start in range(0, 64, 8):
        assert all(len({*side}) == 8 for side in zip(*looks[start : start + 8], strict=True))


def test_pairs_name_points():
    with pytest.raises(OutOfRange, match="No point 'DCA-GC'"):
        accuracy_over_parameters(POINTS, "", [("SE", "DCA-GC")])


def test_every_new_figure_says_what_it_shows(logs, over):
    for figure in (logs, over, training_and_test_curves(BOTH, "top-1 error (%)")):
        assert figure.layout.meta.endswith(".") and "top-1" in figure.layout.meta


def luminance(colour):
    """Relative luminance of #rrggbb, by WCAG 2."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#0e1117"])
def test_text_and_lines_read_on_light_and_dark_pages(page, over):
    assert contrast(over.layout.font.color, page) > 4
    assert all(contrast(colour, page) > 2.3 for colour in COLOURS)
    assert contrast("#2a3f5f", page) < 2 or page == "#ffffff"  # witness: plotly's own text does not
    assert over.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_smoothing_starts_at_the_first_value_and_keeps_constants():
    assert smoothed([4.0, 4.0, 4.0], 0.9) == pytest.approx([4.0] * 3)
    assert smoothed([4.0, 2.0], 0.5) == pytest.approx([4.0, (0.5 * 2 + 0.25 * 4) / 0.75])
    assert smoothed([4.0, 2.0], 0.0) == [4.0, 2.0]


def test_smoothed_lines_leave_the_plain_mean_and_the_band():
    band, faint, line, *rest = curves(RUNS, "error (%)", smoothing=0.5).data
    assert list(faint.y) == [9.0, 5.0, 3.0] and faint.opacity < 0.5 and not faint.showlegend
    assert list(line.y) == smoothed([9.0, 5.0, 3.0], 0.5) != list(faint.y)
    assert max(band.y) == 10.0 and len(rest) == 2  # one seed: faint and smoothed, no band
    for weight in (-0.1, 1.0):
        with pytest.raises(OutOfRange, match="Smoothing"):
            curves(RUNS, "", smoothing=weight)


def test_a_logarithmic_axis_is_said():
    figure = curves(RUNS, "error (%)", log=True)
    assert figure.layout.yaxis.type == "log" and "logarithmic" in figure.layout.meta
    assert curves(RUNS, "error (%)").layout.yaxis.type is None  # witness


def test_many_lines_are_thin_and_named_on_hover():
    many = curves({str(number): [[1.0, 2.0]] for number in range(40)}, "")
    assert many.layout.showlegend is False and {trace.line.width for trace in many.data} == {1}
    assert "39 (one seed)" in many.data[-1].hovertemplate
    some = curves({str(number): [[1.0, 2.0]] for number in range(13)}, "")
    assert some.layout.showlegend is None and {trace.line.width for trace in some.data} == {1}  # thin, with a legend
