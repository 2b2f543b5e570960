"""An exhibit's numbers are those of its figure."""

import numpy as np
import pytest

from workbench.errors import OutOfRange
from workbench.explain import exhibits
from workbench.explain.templates import Reading

LABELS = ["cat", "dog"]
RANDOM = np.random.default_rng(0)


def values(*shape):
    return [(site, RANDOM.random((2, *shape))) for site in ("1.1", "1.2", "1.3")]


@pytest.mark.parametrize("kind", ["curves", "heat", "difference"])
def test_channels(kind):
    T = values(4)
    one = exhibits.channels(T, LABELS, kind, "index")
    assert len(one.numbers) == 3 * 2 * 4 and one.figure.layout.meta
    if kind == "difference":
        assert f"1.2 {np.abs(T[1][1][0] - T[1][1][1]).mean():.3f}, 1.3" in one.words[0]
        assert [*one.table.columns] == ["channel", "difference", "cat", "dog"]
    else:
        assert one.table.loc["1.2", "mean, dog"] == pytest.approx(T[1][1][1].mean())
        assert one.table.loc["1.2", "mean, cat"] != one.table.loc["1.2", "mean, dog"]  # witness


def test_positions_say_their_range():
    T, pictures = values(2, 2), np.zeros((2, 8, 8, 3), np.uint8)
    own, one = (exhibits.positions(T, LABELS, pictures, flag) for flag in (True, False))
    assert list(own.figure.data[-1].marker.colorbar.ticktext) == ["lowest", "highest"]
    low, high = min(maps.min() for _, maps in T), max(maps.max() for _, maps in T)
    assert list(one.figure.data[-1].marker.colorbar.ticktext) == [f"{low:.3f}", f"{high:.3f}"]
    assert len([trace for trace in own.figure.data if trace.type == "image"]) == 2 * 4  # the picture and three maps
    assert own.table.loc["1.1"].iloc[1].tolist()[0] == "dog" and len(own.numbers) == 3 * 2 * 4


def test_branches_and_taps_have_a_closer_look():
    T = values(4, 2)
    words, closer = exhibits.branches(T, LABELS).second
    assert "5x5" in words and np.allclose(closer.data[0].y, T[0][1][0, :, 1])
    A = values(4, 1, 3, 3)
    words, closer = exhibits.taps(A, LABELS, "1.2").second
    assert "1.2" in words and np.array_equal(closer.data[0].z, A[1][1][0].reshape(4, 9))
    with pytest.raises(OutOfRange, match=r"No AW-convolution in a block 9\.9; its blocks are 1\.1, 1\.2, 1\.3"):
        exhibits.taps(A, LABELS, "9.9")


def test_templates_say_sum_bias_and_gate():
    E, X = RANDOM.normal(size=(2, 3, 4, 4))
    one = Reading(E, X, np.array([0.0, 0.0, 0.5]), np.array([0.1, 0.2, 0.75]))
    shown = exhibits.templates([one, one], LABELS, [np.zeros((8, 8, 3), np.uint8)] * 2, E, 2)
    total = float((E[2] * X[2]).sum())
    assert f"the sum of E · X is {total:+.3f}; with the bias +0.500 it is {total + 0.5:+.3f}" in shown.words[0]
    assert "= 0.750 lets 75 % of the channel through" in shown.words[1] and shown.words[1].startswith("dog")
    assert shown.table["gate"].tolist() == [0.75, 0.75] and len(shown.numbers) == 6
