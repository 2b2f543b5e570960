"""Pictures show every value they are given, on one scale, and stay small."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from workbench.errors import OutOfRange
from workbench.explain.pictures import (
    LUT,
    attention_heat,
    channel_curves,
    contributions,
    overlay,
    overlay_grid,
)

SITES = ["1.2", "2.1", "2.2", "3.1"]
SHARES = {
    "SE": [
        [(site, "channel", share) for site, share in zip(SITES, (0.1, 0.2, 0.3, 0.4), strict=True)],
        [(site, "channel", share) for site, share in zip(SITES, (0.3, 0.4, 0.5, 0.6), strict=True)],
    ],
    "CBAM": [[(site, dim, 0.5) for site in SITES for dim in ("channel", "spatial")]],
}


@pytest.fixture(scope="module")
def shares():
    return contributions(SHARES)


def test_a_share_stands_at_its_connection(shares):
    lines = {trace.name: trace for trace in shares.data if trace.name}
    assert list(lines) == ["SE (n = 2)", "CBAM, channel (one seed)", "CBAM, spatial (one seed)"]
    assert lines["SE (n = 2)"].y == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert list(lines["SE (n = 2)"].x) == [1, 2, 3, 4] and list(lines["SE (n = 2)"].text) == SITES
    (seeds,) = [trace for trace in shares.data if not trace.name]
    assert list(zip(seeds.x, seeds.y, strict=True))[3:5] == [(4, 0.4), (1, 0.3)]
    assert list(shares.layout.xaxis.ticktext) == SITES
    assert shares.layout.yaxis.range[0] <= 0 and shares.layout.yaxis.range[1] >= 1  # the whole range, for every network


def test_stages_are_marked_where_they_begin(shares):
    assert [shape.x0 for shape in shares.layout.shapes] == [1.5, 3.5]
    assert [note.text for note in shares.layout.annotations] == ["stage 2", "stage 3"]


def test_lines_differ_in_colour_and_symbol(shares):
    looks = [(trace.marker.color, trace.marker.symbol) for trace in shares.data if trace.name]
    assert len({colour for colour, _ in looks}) == len({symbol for _, symbol in looks}) == 3


def test_connections_of_other_sites_are_refused():
    with pytest.raises(OutOfRange, match="'b' has other sites"):
        contributions({"a": [[("1.2", "channel", 0.5)]], "b": [[("1.3", "channel", 0.5)]]})
    assert not contributions({}).data


def test_a_dimension_stands_at_its_own_sites():
    """AW replaces the pointwise convolutions of MobileNetV1 alone, SE stands after all."""
    sites = ["1.2", "2.1", "2.2", "10.1"]
    both = [(site, "channel", 0.5) for site in sites] + [(site, "weight", 0.1) for site in (sites[2], sites[3])]
    figure = contributions({"a": [both], "b": [[(site, "channel", 0.2) for site in sites]]})
    lines = {trace.name: (list(trace.x), list(trace.text)) for trace in figure.data}
    assert lines["a, channel (one seed)"] == lines["b (one seed)"] == ([1, 2, 3, 4], sites)
    assert lines["a, weight (one seed)"] == ([3, 4], sites[2:])
    assert list(figure.layout.xaxis.ticktext) == sites != sorted(sites)  # witness: by number, not by letter
    assert contributions({"a": [both]}).layout.xaxis.ticktext == figure.layout.xaxis.ticktext
    with pytest.raises(OutOfRange, match="'b' has other sites"):
        contributions({"a": [both], "b": [both[-2:]]})


VALUES = [
    ("1.1", np.array([[0.1, 0.4, 0.2], [0.3, 0.8, 0.0]], np.float32)),
    ("2.1", np.array([[0.5, 0.6, 0.7, 0.8], [0.9, 0.8, 0.7, 0.6]], np.float32)),
]


def test_each_layer_is_a_panel_and_each_picture_a_line():
    figure = channel_curves(VALUES, ["peacock", "bee"])
    assert [(trace.name, trace.xaxis) for trace in figure.data] == [
        ("peacock", "x"), ("bee", "x"), ("peacock", "x2"), ("bee", "x2")
    ]  # fmt: skip
    lines = [line for _, T in VALUES for line in T]
    assert all(np.array_equal(trace.y, line) for trace, line in zip(figure.data, lines, strict=True))
    assert [note.text for note in figure.layout.annotations] == ["1.1", "2.1"]
    assert figure.layout.yaxis2.matches == "y"  # so that shallow and deep layers can be compared
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    assert figure.data[0].line.dash != figure.data[1].line.dash
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("channel", "attention")


def test_channels_are_sorted_alike_for_all_pictures():
    figure = channel_curves(VALUES, ["peacock", "bee"], "sorted")
    assert list(figure.data[0].customdata) == [1, 0, 2]  # means 0.6, 0.2 and 0.1
    np.testing.assert_array_equal(figure.data[0].y, VALUES[0][1][0, [1, 0, 2]])
    np.testing.assert_array_equal(figure.data[1].y, VALUES[0][1][1, [1, 0, 2]])
    assert list(channel_curves(VALUES, ["peacock", "bee"]).data[0].customdata) == [0, 1, 2]


def test_panels_fill_rows():
    figure = channel_curves([VALUES[0]] * 6, ["a", "b"])
    assert {trace.xaxis for trace in figure.data} == {"x", *(f"x{n}" for n in range(2, 7))}
    with pytest.raises(ValueError):
        channel_curves(VALUES, ["a"])  # a label for each picture


def test_the_heat_map_is_the_mean_over_pictures():
    (cells,) = attention_heat(VALUES).data
    np.testing.assert_allclose(cells.z, [[0.2, 0.6, 0.1, np.nan], [0.7, 0.7, 0.7, 0.7]], rtol=1e-6)
    assert list(cells.y) == ["1.1", "2.1"]
    np.testing.assert_allclose(attention_heat(VALUES, "sorted").data[0].z[0], [0.6, 0.2, 0.1, np.nan], rtol=1e-6)


def test_orders_are_two():
    with pytest.raises(OutOfRange, match="use index or sorted"):
        channel_curves(VALUES, ["a", "b"], "rank")
    with pytest.raises(OutOfRange, match="use index or sorted"):
        attention_heat(VALUES, "rank")


def photograph(side, seed=0):
    """A smooth picture with grain."""
    y, x = np.mgrid[:side, :side] / side
    waves = np.stack([np.sin(6 * x + 3 * y + seed), 2 * y - 1, np.cos(9 * x * y)], -1)
    grain = np.random.default_rng(seed).normal(0, 5, waves.shape)
    return (128 + 90 * waves + grain).clip(0, 255).astype(np.uint8)


def spot(side, x, y):
    rows, columns = np.mgrid[:side, :side] / side
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 0.05).astype(np.float32)


def decoded(trace):
    kind, data = trace.source.split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def test_a_grid_of_four_networks_is_small():
    maps = [[None, *(spot(224, n / 5, m / 5) for n in range(4))] for m in range(4)]
    figure = overlay_grid(photograph(224), maps, ["original", *"1234"], [*"abcd"])
    assert len(figure.to_json()) < 1e6
    assert len([trace for trace in figure.data if trace.type == "image"]) == 20


def test_cells_are_the_pictures_under_their_maps():
    pictures = np.stack([photograph(64, seed) for seed in (0, 1)])
    maps = [[None, None], [spot(64, 0.2, 0.2), spot(64, 0.8, 0.3)]]
    figure = overlay_grid(pictures, maps, ["bee", "peacock"], ["original", "SE-ResNet-50"])
    cells = [trace for trace in figure.data if trace.type == "image"]
    expected = [overlay(pictures[c], maps[r][c]) for r in (0, 1) for c in (0, 1)]
    for cell, picture in zip(cells, expected, strict=True):
        assert abs(decoded(cell) - picture).mean() < 4
        assert sum(abs(decoded(cell) - other).mean() < 4 for other in expected) == 1  # witness: no other is as near
    assert [cell.hovertemplate.split("<")[0] for cell in cells][2:] == ["SE-ResNet-50, bee", "SE-ResNet-50, peacock"]
    assert [note.text for note in figure.layout.annotations] == ["bee", "peacock"]
    assert [figure.layout[axis].title.text for axis in ("yaxis", "yaxis3")] == ["original", "SE-ResNet-50"]


def test_the_colour_bar_is_that_of_the_maps():
    figure = overlay_grid(photograph(32), [[spot(32, 0, 0)]], ["a"], ["b"], "Grad-CAM")
    marker = figure.data[-1].marker
    assert (marker.cmin, marker.cmax, marker.colorbar.title.text) == (0, 1, "Grad-CAM")
    np.testing.assert_allclose(LUT[[0, -1]], [[68, 1, 84], [253, 231, 37]], atol=1)  # Viridis, whose bar it is
    assert marker.colorscale[0][1] == "#440154" and marker.colorscale[-1][1] == "#fde725"


def test_heat_hides_the_picture_more_the_hotter_it_is():
    dark, light = np.zeros((1, 2, 3), np.uint8), np.full((1, 2, 3), 255, np.uint8)
    heat = np.array([[0.0, 1.0]], np.float32)
    contrast = overlay(light, heat).astype(int) - overlay(dark, heat)
    np.testing.assert_allclose(contrast[0], [[204] * 3, [64] * 3], atol=1)
    np.testing.assert_allclose(overlay(dark, heat)[0, 1], 0.75 * LUT[-1], atol=1)


@pytest.mark.parametrize(
    ("picture", "heat", "text"),
    [
        (photograph(8).astype(np.float32), None, "give uint8"),
        (photograph(8), np.full((8, 8), 1.5), "in \\[0, 1\\]"),
        (photograph(8), np.full((8, 8), -0.1), "in \\[0, 1\\]"),
        (photograph(8), np.full((8, 8), np.nan), "in \\[0, 1\\]"),
        (photograph(8), np.zeros((4, 4)), "shape \\(4, 4\\)"),
    ],
)
def test_what_is_no_picture_or_no_map_is_refused(picture, heat, text):
    with pytest.raises(OutOfRange, match=text):
        overlay_grid(picture, [[heat]], ["a"], ["b"])


def test_rows_and_columns_must_match():
    with pytest.raises(ValueError):
        overlay_grid(photograph(8), [[None]], ["a", "b"], ["c"])
    with pytest.raises(ValueError):
        overlay_grid(photograph(8), [[None]], ["a"], ["b", "c"])


def test_every_figure_says_what_it_shows(shares):
    grid = overlay_grid(photograph(8), [[None]], ["bee"], ["SE"])
    for figure in (shares, channel_curves(VALUES, ["a", "b"]), attention_heat(VALUES), grid):
        assert figure.layout.meta.endswith(".") and len(figure.layout.meta) > 30
