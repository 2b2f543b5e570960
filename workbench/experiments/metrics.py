"""The columns of tables: what a printed number means, and when a counted one is equal to it."""

import math
import re
from decimal import Decimal
from statistics import fmean
from typing import NamedTuple

from workbench.errors import OutOfRange
from workbench.experiments.experiment import Record


class Metric(NamedTuple):
    """A column.  unit: a key of SCALE; better: "lower" or "higher"; source: "count", "train" or "detect"."""

    key: str
    title: str
    unit: str
    better: str
    source: str

    @property
    def trained(self) -> bool:
        """Is it measured on trained networks, and not counted?"""
        return self.source != "count"


METRICS = {
    metric.key: metric
    for metric in (
        Metric("top1_error", "top-1 error", "%", "lower", "train"),
        Metric("top5_error", "top-5 error", "%", "lower", "train"),
        Metric("top1_accuracy", "top-1 accuracy", "%", "higher", "train"),
        Metric("top5_accuracy", "top-5 accuracy", "%", "higher", "train"),
        Metric("accuracy", "accuracy", "fraction", "higher", "train"),
        Metric("best_accuracy", "best accuracy of all epochs", "fraction", "higher", "train"),
        Metric("mean_accuracy", "mean accuracy of all epochs", "fraction", "higher", "train"),
        Metric("params", "parameters", "M", "lower", "count"),
        Metric("macs", "multiply-adds", "G", "lower", "count"),
        Metric("ap", "AP", "%", "higher", "detect"),
        Metric("ap50", "AP50", "%", "higher", "detect"),
        Metric("ap75", "AP75", "%", "higher", "detect"),
        Metric("ap_small", "AP small", "%", "higher", "detect"),
        Metric("ap_medium", "AP medium", "%", "higher", "detect"),
        Metric("ap_large", "AP large", "%", "higher", "detect"),
    )
}
SCALE = {"%": 1.0, "fraction": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
RANGES = {"%": (1, 100, " in percent, not a fraction"), "fraction": (0, 1, " of at most 1, not in percent")}


def quantity(printed: str, unit: str) -> tuple[Decimal, str]:
    """A printed number and the unit it is in, its own or its column's: "853.02K" -> (853.02, "K")."""
    own = printed[-1:] in ("K", "M", "G")
    return (Decimal(printed[:-1]), printed[-1]) if own else (Decimal(printed), unit)


def as_float(printed: str, unit: str) -> float:
    """A printed number in the unit of its column: "853.02K" in a column of M -> 0.85302."""
    digits, own = quantity(printed, unit)
    return float(digits) * (SCALE[own] / SCALE[unit])


def agrees(printed: str, value: float, unit: str) -> bool:
    """Is `value`, in plain units, the printed number to its last digit?"""
    digits, own = quantity(printed, unit)
    return round(Decimal(value / SCALE[own]), -int(digits.as_tuple().exponent)) == digits


def value(metric: Metric, record: Record) -> float:
    """The metric of one run in its unit; accuracy is 100 - error, or 1 - error as a fraction."""
    if metric.key == "mean_accuracy":
        return 1 - fmean(entry["test_top1_error"] for entry in record.curves) / 100
    if metric.unit == "fraction":
        return 1 - record.metrics["best_top1_error" if metric.key == "best_accuracy" else "top1_error"] / 100
    if metric.key.endswith("accuracy"):
        return 100 - record.metrics[metric.key.replace("accuracy", "error")]
    return record.metrics[metric.key]


def holds(metric: Metric, record: Record) -> bool:
    """Does the run say something of it?  A data set without large objects has no AP of them."""
    return metric.source != "detect" or metric.key in record.metrics


def check_print(where: str, text: object, metric: Metric) -> None:
    """A number as printed, in its metric's range; raises OutOfRange."""
    pattern = r"[0-9]+(\.[0-9]+)?" + ("[KMG]?" if metric.source == "count" else "")
    value = quantity(text, metric.unit)[0] if isinstance(text, str) and re.fullmatch(pattern, text) else 0
    low, high, kind = RANGES.get(metric.unit, (0, math.inf, ""))
    if not low <= value <= high or value == 0:
        raise OutOfRange(f"{where} = {text!r} must be a printed number{kind}")
