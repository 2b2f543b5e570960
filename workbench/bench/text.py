"""A bench in words: a line for each entry, and what they say."""

from typing import Any


def line(entry: dict[str, Any]) -> str:
    """One entry, its ratio above 1 where ours is faster."""
    memory = {key: f"{entry[key]:.2f}" for key in ("forward_memory", "step_memory", "memory_of_peer") if key in entry}
    where = f"{entry['name']:30} {entry['shape']:18} {entry.get('format', ''):14}"
    times = f"{1e3 * entry['time_s']:9.2f} ms  {entry['peer']:22} {1e3 * entry['peer_s']:9.2f} ms"
    return f"{where} {times}  ratio {entry['ratio']:5.2f}  {'  '.join(f'{k} {v}' for k, v in memory.items())}".rstrip()


def reading(entries: list[dict[str, Any]]) -> str:
    """For each pair of ours and a peer: in how many entries ours is at least as fast, and the span of the ratios."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for entry in entries:
        pairs.setdefault((entry["name"], entry["peer"]), []).append(entry["ratio"])
    return "\n".join(
        f"{name} is at least as fast as {peer} in {sum(r >= 1 for r in ratios)} of {len(ratios)}, "
        f"its time over ours {min(ratios):.2f} to {max(ratios):.2f}."
        for (name, peer), ratios in pairs.items()
    )
