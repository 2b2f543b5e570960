"""What the numbers of a table say, in sentences made from them."""

from typing import Any

from workbench.experiments.metrics import METRICS
from workbench.experiments.paired import holm, paired, paired_t, verdict
from workbench.experiments.table import Table
from workbench.names import parse


def reading(table: Table, entries: list[dict[str, Any]]) -> list[str]:
    """What the numbers here say, in sentences made from them."""
    metric = next((metric for metric in table.metrics if metric.trained), None)
    verdicts = [m["agrees"] for entry in entries for m in entry["measured"] if "agrees" in m]
    lines = [f"{sum(verdicts)} of {len(verdicts)} counted cells agree to the printed digit."] if verdicts else []
    if metric is None:
        return lines
    deltas = differences(table, entries, metric.key)
    for where, base in dict.fromkeys((delta["where"], delta["base"]) for delta in deltas):
        lines.append(f"Measured {where}: {metric.title} against {base!r}, paired over seeds:")
        lines += [f"  {_sentence(delta)}" for delta in deltas if (delta["where"], delta["base"]) == (where, base)]
    if not deltas:
        lines.append("Nothing is measured yet; nothing follows about the claim.")
    elif any(m["dataset"] and m["budget"] != "paper" for entry in entries for m in entry["measured"]):
        lines.append("Protocol, networks or data are not the paper's: they can support its claim, never its numbers.")
    return lines


def _sentence(delta: dict[str, Any]) -> str:
    start = f"{delta['row']}: {delta['mean']:+.2f} points (n = {delta['n']}"
    printed = "" if delta["printed"] is None else f" Printed: {delta['printed']:+.2f}."
    if delta["half_width"] is None:
        return f"{start}); one seed says nothing about the noise.{printed}"
    found = verdict(delta["p"], delta["holm"], "rows")
    return f"{start}, 95 % interval +- {delta['half_width']:.2f}): {found}.{printed}"


def differences(table: Table, entries: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Every row against its base, paired over common seeds, within one origin, backbone, protocol and machine.

    [{"row", "base", "where", "printed", "mean", "half_width", "n", "p", "holm"}]: mean difference in points, the half
    width of its 95 % interval (Student's t on the paired differences; None for one seed), p of the test, and p by
    Holm's correction over all rows of that `where`, which is what is common; printed: the difference of the published
    numbers, which have a protocol of their own, or None.
    """
    points = 100 if METRICS[metric].unit == "fraction" else 1
    rows = {entry["row"]: entry for entry in entries}
    deltas: list[dict[str, Any]] = [
        {
            "row": entry["row"],
            "base": base["row"],
            "where": _where(mine),
            "printed": _printed(entry, base, metric, points),
            **paired(found := [points * (mine["values"][s] - theirs["values"][s]) for s in seeds]),
            "p": paired_t(found),
        }
        for entry in entries
        if (base := rows[entry["base"]])
        for mine in entry["measured"]
        for theirs in base["measured"]
        if entry is not base and mine["metric"] == theirs["metric"] == metric and _where(mine) == _where(theirs)
        if (seeds := sorted(set(mine["values"]) & set(theirs["values"])))
    ]
    for where in {delta["where"] for delta in deltas}:
        alike = [delta for delta in deltas if delta["where"] == where]
        adjusted = iter(holm([delta["p"] for delta in alike if delta["p"] is not None]))
        for delta in alike:
            delta["holm"] = None if delta["p"] is None else next(adjusted)
    return deltas


def _printed(entry: dict[str, Any], base: dict[str, Any], metric: str, points: int) -> float | None:
    both = [found["published"].get(metric) for found in (entry, base)]
    return None if None in both else points * (both[0] - both[1])


def _where(measured: dict[str, Any]) -> str:
    backbone = parse(measured["model"]).backbone
    return f"{measured['origin']}: {backbone} on {measured['protocol']}, {measured['hardware']}"
