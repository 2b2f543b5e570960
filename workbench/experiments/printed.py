"""Sums of a table's cells, printed or counted, against what the paper's text says of them.

A printed number stands for all that round to it, so a sum of cells is an interval, and the text agrees with it when
the numbers that round to what it says meet that interval.
"""

from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple

from workbench.errors import OutOfRange
from workbench.experiments.metrics import METRICS, SCALE, quantity
from workbench.experiments.table import Table

BOUNDS = ("says", "at_most", "at_least", "above")


class Span(NamedTuple):
    """A number, and the least and the most it can be."""

    value: Fraction
    low: Fraction
    high: Fraction

    def __truediv__(self, other: "Span") -> "Span":
        if other.low <= 0 <= other.high:
            raise OutOfRange(f"A check divides by {float(other.value):g}, which rounding lets be 0.")
        corners = [a / b for a, b in product((self.low, self.high), (other.low, other.high))]
        return Span(self.value / other.value, min(corners), max(corners))


def rounded(text: str) -> Span:
    """A number as printed: any that round to it."""
    value = Fraction(text)
    half = Fraction(1, 2 * 10 ** len(text.partition(".")[2]))
    return Span(value, value - half, value + half)


def cell(table: Table, label: str, metric: str, counted: bool) -> Span:
    """A cell in the unit of its column, as printed or as counted."""
    row, unit = next(row for row in table.rows if row.label == label), METRICS[metric].unit
    if counted:
        from workbench.explain.complexity import count

        cost = count(row.model, row.classes, convention=table.convention)
        exact = Fraction(getattr(cost, metric)) / Fraction(SCALE[unit])
        return Span(exact, exact, exact)
    digits, own = quantity(row.published[metric], unit)
    factor = Fraction(SCALE[own]) / Fraction(SCALE[unit])
    value, low, high = rounded(str(digits))
    return Span(value * factor, low * factor, high * factor)


def total(table: Table, terms: list[Any], counted: bool) -> Span:
    """The sum of [weight, row, metric], or of [weight, "0.75"], a number quoted from the text."""
    value = low = high = Fraction(0)
    for factor, *what in terms:
        weight = Fraction(str(factor))
        term = rounded(what[0]) if len(what) == 1 else cell(table, what[0], what[1], counted)
        ends = (weight * term.low, weight * term.high)
        value, low, high = value + weight * term.value, low + min(ends), high + max(ends)
    return Span(value, low, high)


def held(table: Table, check: dict[str, Any], counted: bool) -> tuple[bool, str]:
    """Does a check hold, and what was found, in words."""
    found = total(table, check["of"], counted)
    if "over" in check:
        found /= total(table, check["over"], counted)
    bound = next(key for key in BOUNDS if key in check)
    said = check[bound]
    if bound == "says":
        least, most = rounded(said)[1:]
        holds = found.low <= most and least <= found.high
    else:
        limit = Fraction(str(said))
        holds = {"at_most": found.value <= limit, "at_least": found.value >= limit, "above": found.value > limit}[bound]
    return holds, f"{named(check)} = {float(found.value):.4g} ({PHRASES[bound]} {said})"


def named(check: dict[str, Any]) -> str:
    """ "parameters of CRA-ResNet-50 - ResNet-50, divided by ResNet-50"."""
    title = next((f"{METRICS[term[2]].title} of " for term in check["of"] if len(term) == 3), "")
    over = f", divided by {_sum(check['over'])}" if "over" in check else ""
    return f"{title}{_sum(check['of'])}{over}"


def _sum(terms: list[Any]) -> str:
    parts = []
    for weight, what, *_ in terms:
        times = "" if abs(weight) == 1 else f"{abs(weight)} x "
        parts.append(f"{'-' if weight < 0 else '+'} {times}{what}")
    return " ".join(parts).removeprefix("+ ")


PHRASES = {"says": "said to be", "at_most": "to be at most", "at_least": "to be at least", "above": "to be above"}
