"""Runs to look at: records read once as long as their files stay, and many runs as few lines with what sets them apart.

For display only; what trains or judges reads through Store.
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workbench import datasets, files
from workbench.experiments.compare import groups, hardware
from workbench.experiments.experiment import Record, outdated
from workbench.experiments.metrics import METRICS
from workbench.experiments.store import Store
from workbench.training.recipe import RECIPES, Recipe, as_dict

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Stamp = tuple[int, int]


class Watched(Store):
    """A store whose records are read again only when the time or the size of their file has changed."""

    def __init__(self, root: Path | str | None = None, data: Path | str | None = None, published: Path | None = None):
        super().__init__(root, data, published)
        self._seen: dict[Path, tuple[Stamp, Record | None]] = {}
        self._stale: dict[str, bool] = {}

    def records(self) -> Iterator[Record]:
        """As Store has them; what a spec's names mean cannot change while this program runs."""
        return (record for record in self._records() if not self._outdated(record))

    def state(self) -> tuple[tuple[str, int, int], ...]:
        """Name, time and size of every record: as long as it is the same, so is all that follows from them."""
        paths = [*self.root.glob("*/record.json"), *self.published.glob("*.json")]
        return tuple((str(path), *stamp) for path in sorted(paths) if (stamp := files.stamp(path)))

    def _read(self, path: Path, aside: bool) -> Record | None:  # type: ignore[override]
        stamp = files.stamp(path)
        if stamp is None:
            return None
        seen = self._seen.get(path)
        if seen is None or seen[0] != stamp:
            seen = self._seen[path] = (stamp, Store._read(path, aside))
        return seen[1]

    def _outdated(self, record: Record) -> bool:
        spec = json.dumps(record.spec)
        if spec not in self._stale:
            self._stale[spec] = bool(outdated(record.spec))
        return self._stale[spec]


class Group(NamedTuple):
    """Runs that differ in their seed alone.  settings: all else, by name."""

    label: str
    settings: dict[str, str]
    records: list[Record]

    def values(self, metric: str) -> list[list[float]]:
        """The metric by epoch, one list a seed; a run whose journal lacks it is left out."""
        found = [[entry[metric] for entry in record.curves if metric in entry] for record in self.records]
        return [run for run in found if run]


def grouped(records: Iterable[Record]) -> list[Group]:
    """Finished runs as groups, each labelled by the settings in which they differ."""
    found = groups(record for record in records if record.status == "done")
    settings = [setting(group[0]) for group in found]
    shown = differing(settings)
    labels: list[str] = []
    for own in settings:
        label = named(own, shown)
        again = sum(other == label or other.startswith(f"{label} (again") for other in labels)
        labels.append(f"{label} (again, {again + 1})" if again else label)  # apart in what no setting says
    return [Group(label, own, group) for label, own, group in zip(labels, settings, found, strict=True)]


def setting(record: Record) -> dict[str, str]:
    """Everything that makes a run but its seed: model, data, each field of the recipe, the machine and by whom."""
    fields = {key: str(value) for key, value in record.spec["recipe"].items()}
    machine = {"machine": hardware(record), "measured": record.origin}
    return {"model": record.spec["model"]["name"], "data": datasets.label(record.spec["dataset"]), **fields, **machine}


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The names of the settings that are not the same everywhere, in their order."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({one.get(name, "") for one in settings}) > 1]


def named(settings: Mapping[str, str], shown: Sequence[str]) -> str:
    """What a line is called: model and data by their value, other settings by name and value; the model if none."""
    words = [settings[name] if name in ("model", "data") else f"{name} {settings.get(name, '-')}" for name in shown]
    return ", ".join(words) or settings["model"]


def recipe_name(record: Record) -> str:
    """The name of the run's recipe, or its settings where it has none."""
    fields = record.spec["recipe"]
    known = (name for name, one in RECIPES.items() if as_dict(one) == fields)
    return next(known, "") or Recipe(**fields).describe()


def drawn(lines: Sequence[Group], metric: str, smoothing: float = 0.0, log: bool = False) -> "go.Figure":
    """One curve a line with the band of its seeds; see `explain.curves.curves`."""
    from workbench.explain.curves import curves

    runs = {line.label: found for line in lines if (found := line.values(metric))}
    return curves(runs, _title(metric), smoothing, log)


def so_far(journals: Mapping[str, Sequence[Mapping[str, float]]], metric: str) -> "go.Figure | None":
    """The curves of runs that go on, by key; None before their first epoch."""
    from workbench.explain.curves import curves

    begun = {key: [[entry[metric] for entry in log if metric in entry]] for key, log in journals.items()}
    begun = {key: runs for key, runs in begun.items() if runs[0]}
    return curves(begun, _title(metric)) if begun else None


def _title(metric: str) -> str:
    unit = "" if metric.endswith("loss") else " (%)"
    return metric.replace("_", " ").replace("top1", "top-1").replace("top5", "top-5").replace("ap", "AP") + unit


def better(metric: str) -> str:
    """Which way a measure of the history is better: "lower" or "higher"."""
    known = METRICS.get(metric.removeprefix("test_").removeprefix("train_"))
    return known.better if known else "lower"


def ends(lines: Sequence[Group], metric: str) -> "pd.DataFrame":
    """The last and the best epoch of every line: means over its seeds, and at which epoch each seed was best."""
    import pandas as pd

    shown = differing([line.settings for line in lines])
    found = []
    for line in lines:
        runs = line.values(metric)
        if not runs:
            continue
        best = [(max if better(metric) == "higher" else min)(run) for run in runs]
        found.append(
            {
                "line": line.label,
                "seeds": len(runs),
                "epochs": max(map(len, runs)),
                "last epoch": statistics.fmean(run[-1] for run in runs),
                "best epoch": statistics.fmean(best),
                "best at": ", ".join(str(run.index(low) + 1) for run, low in zip(runs, best, strict=True)),
                **{name: line.settings.get(name, "-") for name in shown},
            }
        )
    return pd.DataFrame(found)


def tidy(lines: Sequence[Group]) -> "pd.DataFrame":
    """The same runs, one line for each of their seeds and epochs."""
    import pandas as pd

    return pd.DataFrame(
        {"line": line.label, "model": line.settings["model"], "seed": record.spec["seed"], **entry}
        for line in lines
        for record in line.records
        for entry in record.curves
    )
