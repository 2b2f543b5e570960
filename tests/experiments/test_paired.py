"""Student's t, its test, Holm's correction and power: against printed tables, simulation, and scipy where there is."""

import math
import random
import statistics

import pytest

from workbench.errors import OutOfRange
from workbench.experiments.paired import (
    detectable,
    holm,
    interval,
    p_value,
    paired,
    paired_t,
    quantile,
    seeds_needed,
)

PRINTED = {  # two-sided quantiles, from any t table
    (0.95, 1): "12.706",
    (0.95, 2): "4.303",
    (0.95, 4): "2.776",
    (0.95, 10): "2.228",
    (0.95, 30): "2.042",
    (0.95, 120): "1.980",
    (0.90, 1): "6.314",
    (0.90, 5): "2.015",
    (0.80, 3): "1.638",
    (0.99, 2): "9.925",
    (0.99, 20): "2.845",
    (0.999, 5): "6.869",
}


@pytest.mark.parametrize(("where", "printed"), PRINTED.items(), ids=str)
def test_quantiles_as_printed(where, printed):
    assert f"{quantile(*where):.3f}" == printed
    assert f"{quantile(where[0], where[1] + 1):.3f}" != printed or where[1] > 100  # witness: one degree more


def test_closed_forms():
    for t in (0.01, 0.3, 1.0, 5.0, 1e3):
        assert p_value(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, rel=1e-11)  # Cauchy
        assert p_value(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)
        assert p_value(t, 3) != pytest.approx(p_value(t, 2), rel=1e-4)  # witness
    assert (p_value(0, 3), p_value(math.inf, 3)) == (1, 0)
    assert math.isnan(p_value(math.nan, 3))


@pytest.mark.parametrize("df", [1, 2, 3, 7, 29, 400, 99_999])
def test_scipy_says_the_same(df):
    stats = pytest.importorskip("scipy.stats")
    for t in (1e-6, 0.1, 1, 2.5, -2.5, 30):
        assert p_value(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-9, abs=1e-300)
    for level in (0.01, 0.5, 0.95, 0.999):
        assert quantile(level, df) == pytest.approx(stats.t.ppf((1 + level) / 2, df), rel=1e-9)
        assert quantile(level, df) != pytest.approx(stats.t.ppf(level, df), rel=1e-9)  # witness: one-sided


def test_the_quantile_and_the_p_value_are_inverse():
    for df in (1, 2, 5, 50):
        for level in (0.1, 0.5, 0.95, 0.9999):
            assert p_value(quantile(level, df), df) == pytest.approx(1 - level, rel=1e-10)


@pytest.mark.parametrize(("level", "df"), [(0, 3), (1, 3), (95, 3), (0.95, 0)])
def test_a_level_is_a_share(level, df):
    with pytest.raises(OutOfRange, match="level"):
        quantile(level, df)


def test_the_interval_of_a_mean():
    found = interval([1.0, 2.0, 3.0], level=0.9)
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half_width == pytest.approx(2.919986 / math.sqrt(3), rel=1e-6)
    assert interval([4.0]) == (4.0, None, 1)
    assert paired([1.0, 2.0, 3.0])["half_width"] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert paired([4.0]) == {"mean": 4.0, "half_width": None, "n": 1}


def test_the_paired_test_and_its_interval_agree():
    """p < 0.05 exactly where the 95 % interval leaves out 0."""
    deltas = [1.0, 2.0, 3.0]
    for shift in (-2.0, 0.0, 0.4, 0.5, 3.0):
        moved = [delta + shift for delta in deltas]
        found = interval(moved)
        assert (paired_t(moved) < 0.05) == (abs(found.mean) > found.half_width)
    assert paired_t([1.0, 2.0, 3.0]) == pytest.approx(p_value(2 * math.sqrt(3), 2))
    assert paired_t([1.0]) is None and paired_t([2.0, 2.0]) is None  # no spread to compare with


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # his own rule, by hand
    assert holm([0.01, 0.04, 0.03]) != pytest.approx([0.03, 0.12, 0.09])  # witness: Bonferroni
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.2]) == [0.2] and holm([]) == []


def test_the_detectable_difference_is_what_a_simulation_detects():
    """At the difference for 80 % power, the test of 4 seeds sees it in 80 % of many tries; at half of it, far less."""
    draw, n, critical = random.Random(0), 4, quantile(0.95, 3)
    effect = detectable(2.5, n)

    def seen(effect, tries=6000):
        hits = 0
        for _ in range(tries):
            deltas = [draw.gauss(effect, 2.5) for _ in range(n)]
            t = statistics.fmean(deltas) / statistics.stdev(deltas) * math.sqrt(n)
            hits += abs(t) > critical
        return hits / tries

    assert seen(effect) == pytest.approx(0.8, abs=0.02)  # four standard errors
    assert seen(effect / 2, 2000) < 0.5  # witness
    assert seen(0, 4000) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(("n", "level", "wanted"), [(2, 0.95, 0.8), (3, 0.95, 0.8), (5, 0.99, 0.9), (30, 0.95, 0.8)])
def test_the_detectable_difference_inverts_the_noncentral_t(n, level, wanted):
    stats = pytest.importorskip("scipy.stats")
    shift, critical = detectable(1, n, wanted, level) * math.sqrt(n), stats.t.ppf((1 + level) / 2, n - 1)
    reached = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert reached == pytest.approx(wanted, abs=1e-7)


def test_seeds_needed_is_the_fewest():
    for std, effect in ((1.0, 0.5), (0.3, 1.0), (2.0, 0.7)):
        n = seeds_needed(std, -effect)
        assert detectable(std, n) <= effect < detectable(std, n - 1)
    assert seeds_needed(1, 0.5) == 34  # as any table of power has it
    assert seeds_needed(0, 0.5) == 2
    assert detectable(1, 1) == math.inf
    assert detectable(3, 5) == pytest.approx(3 * detectable(1, 5))
    with pytest.raises(OutOfRange, match="0"):
        seeds_needed(1, 0)
    with pytest.raises(OutOfRange, match="power"):
        detectable(1, 3, power=80)
