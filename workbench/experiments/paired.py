"""Differences of runs paired over seeds: Student's t, its interval and test, Holm's correction, and power.

With I the regularised incomplete beta function and T Student's t of `df` degrees of freedom:

    P(|T| > t) = I_x(df / 2, 1 / 2),   x = df / (df + t^2)

The power of the test is that of the noncentral t, P(|Z + d| > q S) with Z normal, S = sqrt(chi^2_df / df) and
d = effect sqrt(n) / std, integrated over the density of S; no normal approximation.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from workbench.errors import OutOfRange

TINY, STEPS, MANY = 1e-300, 4000, 10_000_000
LEVEL = 0.05  # of a test


class Interval(NamedTuple):
    """Mean, half the width of its interval (None for one value), and the number of values."""

    mean: float
    half_width: float | None
    n: int


def paired(deltas: list[float]) -> dict[str, Any]:
    """{"mean", "half_width", "n"} of the 95 % interval."""
    return interval(deltas)._asdict()


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean."""
    n = len(values)
    half = quantile(level, n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Interval(statistics.fmean(values), half, n)


def paired_t(deltas: Sequence[float]) -> float | None:
    """p of the two-sided paired t test; None where the deltas have no spread to compare with."""
    spread = statistics.stdev(deltas) if len(deltas) > 1 else 0
    t = statistics.fmean(deltas) / spread * math.sqrt(len(deltas)) if spread else None
    return None if t is None else p_value(t, len(deltas) - 1)


def verdict(p: float | None, adjusted: float | None, among: str) -> str:
    """What a test says in words; adjusted: p after a correction for all that it stands among."""
    if p is None or adjusted is None:
        return "every seed gives the same difference, so the noise is not measured"
    if adjusted < LEVEL:
        return "larger than the seed noise"
    return (
        f"larger than the seed noise by itself, but not among so many {among}" if p < LEVEL else "within the seed noise"
    )


@cache
def quantile(level: float, df: float) -> float:
    """The two-sided quantile of Student's t: the t with P(|T| <= t) = `level`."""
    if not 0 < level < 1 or df <= 0:
        raise OutOfRange(f"Quantile of t at level {level} with {df} degrees of freedom; use 0 < level < 1 and df > 0.")
    return _root(lambda t: (1 - level) - p_value(t, df))


def p_value(t: float, df: float) -> float:
    """P(|T| > |t|): the two-sided p value of a t statistic."""
    if not math.isfinite(t):
        return math.nan if math.isnan(t) else 0.0
    return incomplete_beta(df / (df + t * t), df / 2, 0.5, complement=t * t / (df + t * t))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: the rank-wise maxima of (m - rank) p, at most 1 (Holm, 1979)."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


def detectable(std: float, n: int, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest mean difference that n seeds detect with this power; infinite for one seed.

    std: of the paired differences; the noncentral t is inverted.
    """
    if not 0 < power < 1 or std < 0 or n < 1:
        raise OutOfRange(
            f"power {power}, spread {std:g}, {n} seeds; use 0 < power < 1, spread >= 0 and 1 or more seeds."
        )
    return math.inf if n == 1 else std / math.sqrt(n) * _shift(n - 1, power, level)


def seeds_needed(std: float, effect: float, power: float = 0.8, level: float = 0.95) -> int:
    """The fewest seeds that detect a mean difference `effect` with this power, by the noncentral t; at least 2."""
    if effect == 0:
        raise OutOfRange("No number of seeds detects a difference of 0; give one that matters to you.")

    def suffices(n: int) -> bool:
        return _power(abs(effect) * math.sqrt(n) / std, n - 1, quantile(level, n - 1)) >= power

    enough, few = 2, 1
    while std > 0 and not suffices(enough):
        enough, few = 2 * enough, enough
        if enough > MANY:
            raise OutOfRange(f"More than {MANY:,} seeds for {effect:g} against a spread of {std:g}; give a larger one.")
    while enough - few > 1:
        middle = (enough + few) // 2
        enough, few = (middle, few) if suffices(middle) else (enough, middle)
    return enough


@cache
def _shift(df: int, wanted: float, level: float) -> float:
    """The d of the noncentral t whose power is `wanted`."""
    critical = quantile(level, df)
    return _root(lambda d: _power(d, df, critical) - wanted)


def _power(d: float, df: int, critical: float) -> float:
    """P(|Z + d| > critical S), by Simpson's rule over where S has its weight."""
    constant = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
    low, high = max(0.0, 1 - 9 / math.sqrt(df)), 1 + 9 / math.sqrt(df)
    width, total = (high - low) / STEPS, 0.0
    for i in range(STEPS + 1):
        s = max(low + i * width, TINY)
        density = math.exp(constant + (df - 1) * math.log(s) - df * s * s / 2)
        tails = math.erfc((critical * s - d) / math.sqrt(2)) + math.erfc((critical * s + d) / math.sqrt(2))
        total += (1 if i in (0, STEPS) else 4 if i % 2 else 2) * density * tails / 2
    return total * width / 3


def _root(rising: Callable[[float], float]) -> float:
    """Where a rising function crosses 0 above 0, to the last bits: doubled until it is passed, then halved."""
    low, high = 0.0, 1.0
    while rising(high) < 0:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
        if high - low < 1e-15 * high:
            break
    return high


def incomplete_beta(x: float, a: float, b: float, complement: float) -> float:
    """I_x(a, b), by the continued fraction of its definition (DLMF 8.17.22).  complement: 1 - x, uncancelled."""
    if x <= 0 or complement <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(complement, b, a, x)
    front = math.exp(a * math.log(x) + b * math.log(complement) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
    return front / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)), from the front by Lentz's method."""
    value, c, d, m = 1.0, 1.0, 0.0, 0
    while True:
        half, odd = divmod(m, 2)
        if odd:
            factor = (half + 1) * (b - half - 1) * x / ((a + m) * (a + m + 1))
        else:
            factor = -(a + half) * (a + b + half) * x / ((a + m) * (a + m + 1))
        d = 1 / (1 + factor * d or TINY)
        c = 1 + factor / c or TINY
        value *= c * d
        m += 1
        if abs(c * d - 1) < 4e-16:
            return value
