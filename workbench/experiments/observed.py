"""What is read off one run: the metrics of tables, and statistics of its curves and of what its network learned.

All in points: percent of pictures, or hundredths of a gate or a share.  With e_t the test error after epoch t:

    mean_error    mean of e_t over all epochs
    train_error   error on the training pictures in the last epoch
    roughness     mean |e_(t+1) - 2 e_t + e_(t-1)| before the learning rate first drops: what jumps, not what falls

What a trained network does is read from the record's metrics where they hold it:

    "contribution"  share of the earlier attention in each connection, first to last          DCA Fig. 5
    "attention"     {"1.2": mean gate of the second block of stage 1 over the test pictures}   CRA Fig. 8
"""

import statistics
from collections.abc import Callable
from typing import Any

from workbench.experiments.experiment import Record
from workbench.experiments.metrics import METRICS, value

STEADY = 8  # epochs before the first drop that a roughness needs
STAGE_3 = slice(6, 13)  # "7th to 13th connections" of the 15 in a ResNet-50


def observe(name: str, record: Record) -> float | None:
    """A metric of a table or a statistic of this file, in points; None where the record does not hold it."""
    if name not in METRICS:
        return STATISTICS[name][1](record)
    try:
        return value(METRICS[name], record) * (100 if METRICS[name].unit == "fraction" else 1)
    except KeyError:  # a detector's metric, or one that this run has not
        return None


def better(name: str) -> str:
    """Which way a metric or a statistic is better: "lower" or "higher"."""
    return METRICS[name].better if name in METRICS else STATISTICS[name][0]


def mean_error(record: Record) -> float | None:
    errors = _errors(record)
    return statistics.fmean(errors) if errors else None


def train_error(record: Record) -> float | None:
    return record.curves[-1].get("train_top1_error") if record.curves else None


def roughness(record: Record) -> float | None:
    """None where fewer than STEADY epochs come before the first drop; half of the epochs where none is announced."""
    fields = record.spec["recipe"]
    drops = fields["milestones"] if fields["schedule"] == "steps" else []
    errors = _errors(record)[: min(drops, default=fields["epochs"] // 2)]
    if len(errors) < STEADY:
        return None
    bends = zip(errors, errors[1:], errors[2:], strict=False)
    return statistics.fmean(abs(after - 2 * now + before) for before, now, after in bends)


def attention_rise(record: Record) -> float | None:
    """The gate of CRA.3.2 less that of CRA.1.2."""
    gates = _learned(record, "attention") or {}
    return 100 * (gates["3.2"] - gates["1.2"]) if {"1.2", "3.2"} <= set(gates) else None


def contribution_least(record: Record) -> float | None:
    return min(_shares(record), default=None)


def contribution_most(record: Record) -> float | None:
    return max(_shares(record), default=None)


def contribution_rise(record: Record) -> float | None:
    """The last connection's share less that of the one before."""
    shares = _shares(record)
    return shares[-1] - shares[-2] if len(shares) > 1 else None


def contribution_14th(record: Record) -> float | None:
    shares = _shares(record)
    return shares[13] if len(shares) == 15 else None


def contribution_calm(record: Record) -> float | None:
    """Standard deviation of the other connections' shares less that of stage 3's; of the 15 of a ResNet-50 alone."""
    shares = _shares(record)
    if len(shares) != 15:
        return None
    return statistics.pstdev(shares[: STAGE_3.start] + shares[STAGE_3.stop :]) - statistics.pstdev(shares[STAGE_3])


def _errors(record: Record) -> list[float]:
    return [entry["test_top1_error"] for entry in record.curves if "test_top1_error" in entry]  # none of a detector


def _shares(record: Record) -> list[float]:
    return [100 * share for share in _learned(record, "contribution") or ()]


def _learned(record: Record, key: str) -> Any:
    """A list or dictionary among the metrics, where the record holds one."""
    return record.metrics.get(key)


STATISTICS: dict[str, tuple[str, Callable[[Record], float | None]]] = {
    "mean_error": ("lower", mean_error),
    "train_error": ("lower", train_error),
    "roughness": ("lower", roughness),
    "attention_rise": ("higher", attention_rise),
    "contribution_least": ("higher", contribution_least),
    "contribution_most": ("higher", contribution_most),
    "contribution_rise": ("higher", contribution_rise),
    "contribution_14th": ("higher", contribution_14th),
    "contribution_calm": ("higher", contribution_calm),
}
