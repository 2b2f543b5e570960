"""Figures of single blocks show every value where it belongs, and say themselves in words."""

import numpy as np
import pytest

from workbench.errors import OutOfRange
from workbench.explain.panels import (
    differences,
    enlarged,
    in_the_same_colours,
    kernel_means,
    kernel_outputs,
    mean_shares,
    on_one_scale,
    template_mosaic,
    template_rows,
)
from workbench.explain.pictures import attention_heat, channel_curves
from workbench.explain.templates import Reading

LABELS = ["cat", "dog"]
VALUES = [("1.1", np.array([[0.1, 0.9, 0.5], [0.2, 0.3, 0.9]])), ("2.1", np.array([[0.0, 0.5], [1.0, 0.5]]))]


def test_a_difference_is_the_first_minus_the_second():
    figure = differences(VALUES, LABELS)
    assert figure.data[0].y == pytest.approx([-0.1, 0.6, -0.4]) and figure.data[1].y == pytest.approx([-1, 0])
    assert [note.text for note in figure.layout.annotations] == ["1.1", "2.1"]
    assert "cat minus that of dog" in figure.layout.meta
    ranked = differences(VALUES, LABELS, "sorted").data[0]
    assert ranked.y == pytest.approx([0.6, -0.1, -0.4]) and list(ranked.customdata) == [1, 0, 2]
    with pytest.raises(OutOfRange, match="between two"):
        differences(VALUES, LABELS[:1])
    with pytest.raises(OutOfRange, match="Order 'up'"):
        differences(VALUES, LABELS, "up")


def test_figures_beside_each_other_have_one_scale():
    figures = [channel_curves(VALUES[:1], LABELS), channel_curves([("1.1", np.array([[-2.0, 3.0]] * 2))], LABELS)]
    on_one_scale(figures)
    ranges = [figure.layout.yaxis.range for figure in figures]
    assert ranges[0] == ranges[1] and ranges[0][0] < -2 and ranges[0][1] > 3


def test_heat_beside_each_other_has_one_scale():
    figures = [
        attention_heat([("1.1", np.array([[0.4, 0.5]]))]),
        attention_heat([*VALUES[:1], ("2.1", np.ones((1, 9)))]),
    ]
    assert figures[0].data[0].zmin is None  # witness: plotly would take each figure's own
    in_the_same_colours(figures)
    scales = {(trace.zmin, trace.zmax) for figure in figures for trace in figure.data}
    cells = np.concatenate([np.ravel(figure.data[0].z) for figure in figures])
    assert scales == {(np.nanmin(cells), np.nanmax(cells))} and np.isnan(cells).any()


def test_maps_are_enlarged_by_repeating_cells():
    T = np.arange(4.0).reshape(1, 2, 2)
    ((heat,),), low, high = enlarged([("1.1", T)], 6, own=True)
    assert (low, high) == (0, 3) and heat.shape == (6, 6)
    assert np.array_equal(heat[::3, ::3], T[0] / 3) and np.array_equal(heat[:3, :3], np.zeros((3, 3)))


def test_scales_are_each_maps_own_or_one():
    values = [("1.1", np.array([[[0.0, 1.0]]])), ("1.2", np.array([[[4.0, 5.0]]])), ("1.3", np.full((1, 1, 2), 2.5))]
    (own,), *_ = enlarged(values, 2, own=True)
    (one,), low, high = enlarged(values, 2, own=False)
    assert [heat[0].tolist() for heat in own] == [[0, 1], [0, 1], [0.5, 0.5]] and (low, high) == (0, 5)
    assert [heat[0].tolist() for heat in one] == [pytest.approx(x) for x in ([0, 0.2], [0.8, 1], [0.5, 0.5])]


def test_mean_shares_are_of_the_wider_branch():
    shares = np.array([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.2, 0.8]]])
    figure = mean_shares([("1.1", shares)], LABELS)
    assert [trace.y[0] for trace in figure.data] == pytest.approx([0.3, 0.8])
    assert figure.data[0].error_y.array[0] == pytest.approx(0.2)
    assert figure.data[0].error_y.arrayminus[0] == pytest.approx(0.2)
    assert [trace.name for trace in figure.data] == LABELS and "5x5" in figure.layout.meta


def test_kernels_are_shown_by_tap_and_by_output():
    A = np.arange(2 * 4 * 2 * 9, dtype=float).reshape(2, 4, 2, 3, 3)
    figure = kernel_means([("1.1", A), ("1.2", A + 1)], LABELS)
    shown = {(trace.xaxis, trace.yaxis): np.array(trace.z) for trace in figure.data}
    assert np.array_equal(shown["x", "y"], A[0].mean((0, 1))) and np.array_equal(
        shown["x4", "y4"], A[1].mean((0, 1)) + 1
    )
    closer = kernel_outputs("1.1", A, LABELS)
    assert np.array_equal(closer.data[1].z, A[1].mean(1).reshape(4, 9))
    assert list(closer.data[0].x)[:4] == ["0,0", "0,1", "0,2", "1,0"]


def reading(seed):
    E, X = np.random.default_rng(seed).normal(size=(2, 3, 4, 5))
    return Reading(E, X, np.zeros(3), np.full(3, 0.5))


def test_a_template_stands_beside_its_map_and_their_product():
    readings = [reading(0), reading(1)]
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 2
    figure = template_rows(readings, LABELS, pictures, channel=2)
    heats = [trace for trace in figure.data if trace.type == "heatmap"]
    for number, one in enumerate(readings):
        E, X, product = (np.array(trace.z) for trace in heats[3 * number : 3 * number + 3])
        assert np.array_equal(E, one.template[2]) and np.array_equal(X, one.map[2]) and np.array_equal(product, E * X)
    axes = [figure.layout[f"coloraxis{number}"] for number in (1, 2, 3)]
    assert all(axis.cmin == -axis.cmax for axis in axes)  # centred on 0
    assert axes[0].cmax == max(np.abs(one.template[2]).max() for one in readings)
    assert "channel 2" in figure.layout.meta


def test_the_sheet_has_every_channel_in_reading_order():
    grids = np.arange(1.0, 1 + 5 * 4).reshape(5, 2, 2)
    figure = template_mosaic(grids, columns=3)
    z = np.array(figure.data[0].z, float)
    assert z.shape == (5, 8) and np.isnan(z[2]).all() and np.isnan(z[:, 2]).all()
    assert np.array_equal(z[3:5, 3:5], grids[4]) and np.array_equal(z[:2, 6:8], grids[2])
    assert figure.data[0].zmax == -figure.data[0].zmin == 20
