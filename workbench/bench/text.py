"""A bench in words: a line for each entry, and what they say."""

from collections.abc import Iterator
from typing import Any

MORE = {  # what an entry may tell besides its times
    "forward_memory": ".2f",
    "step_memory": ".2f",
    "step_megabytes": ",.0f",
    "memory_of_peer": ".2f",
    "pictures_per_s": ",.0f",
    "peer_pictures_per_s": ",.0f",
    "steps_per_s": ",.1f",
    "waited_percent": ".1f",
    "hours_300_epochs": ".3g",
    "floor_percent": ".1f",
    "mps": "",
}


def lines(machine: dict[str, Any], entries: Iterator[dict[str, Any]], found: list[dict[str, Any]]) -> Iterator[str]:
    """The machine, each entry as it comes, which is also added to `found`, and what they say."""
    yield "  ".join(f"{key} {value}" for key, value in machine.items()) + "\n"
    for entry in entries:
        found.append(entry)
        yield line(entry)
    yield "\n" + reading(found)


def line(entry: dict[str, Any]) -> str:
    """One entry, its ratio above 1 where ours is faster."""
    if "failed" in entry:
        return f"{entry['name']:30} failed: {entry['failed']}"
    if "percent" in entry:
        what = f"{entry['name']:30} {entry['part']:46}"
        return f"{what} {1e3 * entry['time_s']:9.3f} ms  {entry['percent']:5.1f} %  {entry.get('calls', 1):4} calls"
    more = [f"{key} {format(entry[key], form)}" for key, form in MORE.items() if key in entry]
    where = f"{entry['name']:30} {entry['shape']:18} {entry.get('format', ''):14}"
    times = f"{1e3 * entry['time_s']:9.2f} ms  {entry['peer']:26} {1e3 * entry['peer_s']:9.2f} ms"
    return f"{where} {times}  ratio {entry['ratio']:5.2f}  {'  '.join(more)}".rstrip()


def reading(entries: list[dict[str, Any]]) -> str:
    """For each pair of ours and a peer: in how many entries ours is at least as fast, and the span of the ratios."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for entry in entries:
        if "ratio" in entry:
            pairs.setdefault((entry["name"], entry["peer"]), []).append(entry["ratio"])
    return "\n".join(_sentence(*pair, ratios) for pair, ratios in pairs.items())


def _sentence(name: str, peer: str, ratios: list[float]) -> str:
    if len(ratios) == 1:
        return f"{name}: the time of {peer} over ours is {ratios[0]:.2f}."
    best = sum(ratio >= 1 for ratio in ratios)
    span = f"its time over ours {min(ratios):.2f} to {max(ratios):.2f}"
    return f"{name} is at least as fast as {peer} in {best} of {len(ratios)}, {span}."
