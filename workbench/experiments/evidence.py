"""What runs say about a claim: comparisons paired over seeds within one protocol, and what their intervals decide.

A comparison is a weighted sum of rows, oriented so that plus is what the paper claims; its values, one a seed, have
Student's t interval [low, high] at 100 - 5 / m % where a claim has m comparisons (Bonferroni), and a minimal effect or
margin d in points:

    effect    supported: low > 0 and mean >= d     contradicted: high < d, on the wrong side of 0 or too small
    no_worse  supported: low > -d                  contradicted: high < -d
    within    supported: -d < low and high < d     contradicted: low > d or high < -d
    guard     contradicted: high < 0, else it does not stand in the way

Anything else is inconclusive, and one seed always is.  How many seeds it would take to see a difference of d: by the
noncentral t, two-sided at the same level, for an interval that leaves out 0 in 80 % of cases, at the spread seen.  A
true difference of just d stays a coin's toss for `effect`, whose mean must reach d.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from workbench.experiments.compare import budget_of, groups, hardware, protocol, recorded
from workbench.experiments.experiment import HERE, Record
from workbench.experiments.observed import better, observe
from workbench.experiments.paired import interval, seeds_needed
from workbench.experiments.table import Row, Table
from workbench.names import parse

if TYPE_CHECKING:
    from workbench.experiments.claims import Claim

SCALES = ("paper", "usual", "imagenette", "cifar100", "cifar")  # the budgets that decide, best first; smoke's never do
SUPPORTED, CONTRADICTED = "supported", "contradicted"
INCONCLUSIVE, NOT_MEASURED = "inconclusive", "not measured"
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_MEASURED)


class Verdict(NamedTuple):
    """What is known about a claim.  n: seeds behind the verdict, None where no runs are needed."""

    verdict: str
    evidence: str
    n: int | None = None


class Comparison(NamedTuple):
    """offset + the sum of weight * row, in a metric or statistic; rule: one of the four above, limit: its d."""

    name: str
    metric: str
    weights: tuple[tuple[float, str], ...]
    rule: str
    limit: float
    offset: float = 0.0


class Finding(NamedTuple):
    """A comparison with the verdict on it; half_width None for one seed.  needed: seeds, where inconclusive."""

    comparison: Comparison
    verdict: str
    mean: float
    half_width: float | None
    n: int
    needed: int = 0

    def __str__(self) -> str:
        half = self.half_width
        shown = "one seed" if half is None else f"[{self.mean - half:+.2f}, {self.mean + half:+.2f}], n = {self.n}"
        return f"{self.comparison.name} {self.mean:+.2f} points ({shown})"


class Place(NamedTuple):
    """One budget on one machine; runs are compared within it, never across."""

    budget: str
    origin: str
    hardware: str


Runs = dict[str, list[Record]]  # row -> its runs, one a seed


def comparisons(claim: Claim) -> list[Comparison]:
    """What the claim compares, for every metric that it names."""
    return [comparison for metric in claim.metrics for comparison in _compared(claim, metric)]


def _compared(claim: Claim, metric: str) -> list[Comparison]:
    sign = 1 if better(metric) == "higher" else -1
    limit = claim.effect or claim.margin

    def pair(a: str, b: str, rule: str) -> Comparison:
        return Comparison(f"{a} against {b}", metric, ((sign, a), (-sign, b)), rule, limit)

    if claim.test in PAIRED:
        return [pair(a, b, PAIRED[claim.test]) for a, b in claim.pairs]
    if claim.test == "order":
        ends = pair(claim.rows[0], claim.rows[-1], "effect")
        return [ends, *(pair(a, b, "guard") for a, b in pairwise(claim.rows))]
    if claim.test == "shrinks":
        return [
            Comparison(
                f"{a}'s lead less {c}'s", metric, ((sign, a), (-sign, b), (-sign, c), (sign, d)), "effect", limit
            )
            for (a, b), (c, d) in pairwise(claim.pairs)
        ]
    if claim.test == "sum":
        name = " ".join(f"{'+' if weight > 0 else '-'} {row}" for weight, row in claim.terms)
        return [Comparison(name, metric, tuple((sign * w, row) for w, row in claim.terms), "effect", limit)]
    way, rule = SINGLE[claim.test]  # one row against a value
    return [
        Comparison(f"{row} {claim.test} {claim.value:g}:", metric, ((way, row),), rule, limit, -way * claim.value)
        for row in claim.rows
    ]


PAIRED = {"better": "effect", "no_worse": "no_worse", "alike": "within"}
SINGLE = {"above": (1, "effect"), "below": (-1, "effect"), "near": (1, "within")}


def decide(comparison: Comparison, values: Sequence[float], among: int = 1) -> Finding:
    """The verdict on one of `among` comparisons from its values, one a seed; there must be at least one."""
    level = 1 - 0.05 / among
    mean, half, n = interval(values, level)
    if half is None:
        return Finding(comparison, INCONCLUSIVE, mean, None, 1)
    verdict = ruled(comparison.rule, comparison.limit, mean, mean - half, mean + half)
    if verdict != INCONCLUSIVE:
        return Finding(comparison, verdict, mean, half, n)
    return Finding(
        comparison, verdict, mean, half, n, seeds_needed(statistics.stdev(values), comparison.limit, 0.8, level)
    )


def ruled(rule: str, limit: float, mean: float, low: float, high: float) -> str:
    """The verdict on an interval by one of the four rules."""
    holds, fails = {
        "effect": (low > 0 and mean >= limit, high < limit),
        "no_worse": (low > -limit, high < -limit),
        "within": (-limit < low and high < limit, low > limit or high < -limit),
        "guard": (high >= 0, high < 0),
    }[rule]
    return SUPPORTED if holds else CONTRADICTED if fails else INCONCLUSIVE


def overall(findings: Sequence[Finding], asked: int) -> str:
    """All must be supported, and one contradicted is enough; a comparison without runs leaves the claim open."""
    verdicts = {finding.verdict for finding in findings}
    if CONTRADICTED in verdicts:
        return CONTRADICTED
    return SUPPORTED if verdicts == {SUPPORTED} and len(findings) == asked else INCONCLUSIVE


def collect(table: Table, rows: Iterable[Row], by_model: dict[str, list[Record]]) -> dict[Place, Runs]:
    """The finished runs of these rows at the table's budgets, by the place they were made at."""
    found: dict[Place, Runs] = defaultdict(dict)
    for row in rows:
        names = {recorded(name) for key in table.budgets if (name := table.trained(row, key))}
        records = [record for name in sorted(names) for record in by_model.get(name, ()) if record.status == "done"]
        for group in groups(records):
            if budget := budget_of(table, row, group[0]):
                place = Place(budget, group[0].origin, hardware(group[0]))
                found[place][row.label] = max(group, found[place].get(row.label, []), key=len)
    return found


def values(comparison: Comparison, runs: Runs) -> list[float]:
    """The comparison's value for every seed that all its rows have; none where they have not one protocol."""
    if len({protocol(runs[row][0]) for _, row in comparison.weights if row in runs}) > 1:
        return []
    terms = []
    for weight, row in comparison.weights:
        read = {record.spec["seed"]: observe(comparison.metric, record) for record in runs.get(row, ())}
        terms.append({seed: weight * found for seed, found in read.items() if found is not None})
    common = sorted(set.intersection(*map(set, terms)))
    return [comparison.offset + sum(term[seed] for term in terms) for seed in common]


def of_runs(claim: Claim, table: Table, by_model: dict[str, list[Record]]) -> Verdict:
    """The verdict of the runs on a claim about training, by the rules of data/claims.toml."""
    asked = comparisons(claim)
    labels = {row for comparison in asked for _, row in comparison.weights}
    places = collect(table, [row for row in (*table.rows, *table.controls) if row.label in labels], by_model)
    findings = {
        place: found
        for place, runs in places.items()
        if (found := [decide(c, each, len(asked)) for c in asked if (each := values(c, runs))])
    }
    ranked = sorted(findings, key=lambda place: _rank(place, findings[place], len(asked)))
    deciding = [place for place in ranked if place.budget in SCALES]
    if not deciding:
        why = NO_PAIRS if any(place.budget in SCALES for place in places) else NO_RUNS
        return Verdict(NOT_MEASURED, " ".join([why, *_others(ranked, places, findings, len(asked))]), 0)
    best, found = deciding[0], findings[deciding[0]]
    verdict = overall(found, len(asked))
    text = f"{_named(best, places[best], table)}: {_said(found, len(asked), verdict)}"
    text = " ".join([text, *_others([place for place in ranked if place != best], places, findings, len(asked))])
    return Verdict(verdict, text, min(finding.n for finding in found))


NO_RUNS = "No runs yet at a protocol that counts."
NO_PAIRS = "Runs at a protocol that counts, but no two that the claim compares have the same one."


def _rank(place: Place, found: Sequence[Finding], asked: int) -> tuple:
    """Two seeds for every comparison first, then the better protocol, then more seeds, then one's own."""
    fewest = min(finding.n for finding in found)
    scale = SCALES.index(place.budget) if place.budget in SCALES else len(SCALES)
    return (len(found) < asked or fewest < 2, scale, -fewest, place.origin != HERE, place)


def _named(place: Place, runs: Runs, table: Table) -> str:
    """ "On resnet20 twins, cifar10, 5 epochs (budget cifar, by the project, AMD EPYC, 1 thread)"."""
    names = {row: records[0].spec["model"]["name"] for row, records in runs.items()}
    networks = dict.fromkeys(str(parse(name).backbone) for name in names.values())
    twins = any(names[row.label] != recorded(row.model) for row in table.rows if row.label in names)
    return f"On {', '.join(networks)}{' twins' if twins else ''}, {_short(place, runs)}"


def _short(place: Place, runs: Runs) -> str:
    protocols = dict.fromkeys(", ".join(protocol(records[0]).split(", ")[:2]) for records in runs.values())
    return f"{' and '.join(protocols)} (budget {place.budget}, {place.origin}, {place.hardware})"


def _said(found: Sequence[Finding], asked: int, verdict: str) -> str:
    """The comparison that decided, or the one that is furthest from it, and what it would take."""
    told = [finding for finding in found if finding.comparison.rule != "guard" or finding.verdict == CONTRADICTED]
    kept = [finding for finding in told if finding.verdict == verdict] or told or found
    worst = min(kept, key=lambda f: -abs(f.mean) if f.comparison.rule == "within" else f.mean)
    text = str(worst)
    missing = asked - len(found)
    if len(told) + missing > 1:
        counts = [f"{number} {kind}" for kind in VERDICTS if (number := sum(f.verdict == kind for f in told))]
        counts += [f"{missing} without runs"] * (missing > 0)
        text = f"of {len(told) + missing} comparisons {', '.join(counts)}; the weakest is {text}"
    if verdict == INCONCLUSIVE and worst.half_width is None:
        text += "; one seed says nothing about the noise"
    elif verdict == INCONCLUSIVE and (needed := max(finding.needed for finding in found)):
        text += f"; to see {worst.comparison.limit:g} points through this spread takes n = {needed}"
    return text + "."


def _others(
    ranked: Sequence[Place], places: dict[Place, Runs], findings: dict[Place, list[Finding]], asked: int
) -> list[str]:
    """The protocols that do not decide, in one sentence, if there are any."""
    says = {place: overall(findings[place], asked) if place.budget in SCALES else "decides nothing" for place in ranked}
    shown = [f"{_short(place, places[place])}: {said}" for place, said in says.items()]
    return [f"Not counted: {'; '.join(shown)}."] if shown else []
