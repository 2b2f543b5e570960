"""Differences of runs paired over seeds, with Student's t interval."""

import math
import statistics
from typing import Any

# Two-sided 95 % quantiles of Student's t by degrees of freedom
T95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def paired(deltas: list[float]) -> dict[str, Any]:
    """{"mean", "half_width", "n"}: mean difference and half the width of its 95 % interval; None for one."""
    n = len(deltas)
    t = T95[n - 1] if n <= len(T95) else _t95(n - 1)
    half = t * statistics.stdev(deltas) / math.sqrt(n) if n > 1 else None
    return {"mean": statistics.fmean(deltas), "half_width": half, "n": n}


def _t95(degrees: int) -> float:
    """Cornish and Fisher's expansion around the normal quantile; three digits from 11 degrees of freedom."""
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
