"""Ablations: one module in several variants on one backbone, all else alike, against the backbone without it.

CRA Table IV varies the grid of the pool; DCA Tables 2, 4, 5 and 6 the schema, the matching of channels, that of maps,
and the dimensions that are connected.  A difference is that of runs of one seed and one machine, never of two.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from workbench import datasets
from workbench.errors import OutOfRange
from workbench.experiments import paired
from workbench.experiments.compare import hardware
from workbench.experiments.experiment import Experiment, Record
from workbench.experiments.grid import DEFAULT, Resources, bar, run_all
from workbench.experiments.store import Store
from workbench.experiments.throughput import COUNTS
from workbench.training.recipe import Recipe
from workbench.training.recipe import recipe as named

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

POINTS = "points of top-1 error, plus is worse"
TEST = "paired t over common seeds, two-sided, Holm"
METRIC = "top1_error"


def cra_pool_size(
    backbone: str,
    sizes: Sequence[int] = (1, 3, 5, 7),
    dataset: str = "layouts",
    recipe: str | Recipe = "smoke",
    seeds: int = 3,
    store: Store | None = None,
    resources: Resources = DEFAULT,
    baseline: bool = True,
) -> "Ablation":
    """CRA Table IV: grids <size,size>, against the backbone without attention unless `baseline` is False."""
    models = {f"<{size},{size}>": f"cra{size}-{backbone}" for size in sizes}
    return ablate(models, {"w/o": backbone} if baseline else {}, dataset, recipe, seeds, store, resources)


def dca_connection(
    backbone: str,
    attention: str = "se",
    schemas: Sequence[str] = ("direct", "softmax", "weighted"),
    matching: Sequence[str] = ("fc1",),
    pooling: Sequence[str] = ("avg",),
    dims: Sequence[str] = ("all",),
    dataset: str = "layouts",
    recipe: str | Recipe = "smoke",
    seeds: int = 3,
    store: Store | None = None,
    resources: Resources = DEFAULT,
) -> "Ablation":
    """DCA Tables 2, 4, 5, 6: every combination of the options, against the attention unconnected.

    matching: fc1, fc2, or fc2:8 for another reduction than 16; dims: all, or dimensions such as channel+spatial.
    """
    axes = (schemas, matching, pooling, dims)
    told = [axis for axis in range(len(axes)) if len(axes[axis]) > 1] or [0]
    models = {}
    for chosen in product(*axes):
        schema, match, pool, dim = chosen
        options = [f"schema={schema}", f"match={match.replace(':', ',reduction=')}", f"pool={pool}"]
        options += [f"dims={dim}"] if dim != "all" else []
        models[", ".join(chosen[axis] for axis in told)] = f"dca[{','.join(options)}]-{attention}-{backbone}"
    vanilla = f"{attention}-{backbone}"
    return ablate(models, {"unconnected": vanilla}, dataset, recipe, seeds, store, resources)


def ablate(
    models: dict[str, str],
    baseline: dict[str, str],
    dataset: str,
    recipe: str | Recipe,
    seeds: int,
    store: Store | None = None,
    resources: Resources = DEFAULT,
) -> "Ablation":
    """Train variants, label -> model, and the baseline, if any; what is done is not done again.

    Every name is checked on pictures of the data set's size before anything starts; two labels of one network are one.
    Raises UnknownName or OutOfRange.
    """
    from workbench.build import canonical
    from workbench.explain.complexity import count

    if seeds < 1 or not models:
        raise OutOfRange(f"{len(models)} variants with {seeds} seeds; an ablation needs at least one of each.")
    chosen = named(recipe) if isinstance(recipe, str) else recipe
    labels: dict[str, str] = {}
    for label, model in (*baseline.items(), *models.items()):
        labels.setdefault(str(canonical(model)), label)
    classes, side = datasets.classes(dataset), COUNTS[dataset].side if dataset in COUNTS else 0
    costs = {label: count(model, classes, side or None) for model, label in labels.items()}
    experiments = [
        Experiment(model=model, dataset=dataset, recipe=chosen, seed=seed) for seed in range(seeds) for model in labels
    ]
    with bar("ablation") as progress:
        records = run_all(experiments, store or Store(), resources, progress)
    found = {
        label: tuple(record for record in records if record.spec["model"]["name"] == model)
        for model, label in labels.items()
    }
    sizes = {label: (cost.params, cost.macs) for label, cost in costs.items()}
    return Ablation(next(iter(baseline), ""), found, sizes)


@dataclass(frozen=True)
class Ablation:
    """What an ablation measured.  runs: variant -> its records, the baseline's first; sizes: parameters, multiply-adds.

    Diverged runs stand in the frame and are named; no mean and no difference has them.
    """

    baseline: str
    runs: dict[str, tuple[Record, ...]]
    sizes: dict[str, tuple[int, int]]

    @property
    def frame(self) -> "pd.DataFrame":
        """One line a run; errors in percent, none where it diverged."""
        import pandas as pd

        errors = (METRIC, "top5_error", "best_top1_error")
        lines = [
            {"variant": variant, "model": record.spec["model"]["name"], "seed": record.spec["seed"]}
            | {metric: record.metrics.get(metric, math.nan) for metric in errors}
            | dict(zip(("params", "multiply_adds"), self.sizes[variant], strict=True))
            | {"key": record.key, "status": record.status, "hardware": hardware(record)}
            for variant, records in self.runs.items()
            for record in records
        ]
        return pd.DataFrame(lines)

    def summary(self) -> "pd.DataFrame":
        """One line a variant: its mean error with the 95 % interval, and the paired difference from the baseline.

        p is of the test named in the last column; None where there is one pair, or no spread between the pairs.
        """
        import pandas as pd

        lines = [self._line(variant) for variant in self.runs]
        tested = [line for line in lines if line["p"] is not None]
        for line, adjusted in zip(tested, paired.holm([line["p"] for line in tested]), strict=True):
            line["p_holm"] = adjusted
        frame = pd.DataFrame(lines).set_index("variant")
        numbers = frame.columns.difference(["n", "diverged", "pairs", "test"])
        return frame.astype(dict.fromkeys(numbers, float))

    def sentence(self) -> str:
        """Is the difference larger than the seed noise?  Each variant, then all of them."""
        table = self.summary()
        lines = [f"{variant}: {_verdict(line)}" for variant, line in table.iterrows() if variant != self.baseline]
        if self.baseline:
            beyond = int((table["p_holm"] < paired.LEVEL).sum())
            tested = int(table["p"].notna().sum())
            lines.append(
                f"In all: {beyond} of {tested} tested variants differ from {self.baseline!r} ({POINTS}; {TEST})."
            )
        lost = [record for records in self.runs.values() for record in records if record.status != "done"]
        lines += [f"Diverged, in no mean: {r.spec['model']['name']}, seed {r.spec['seed']}." for r in lost]
        machines = {hardware(record) for records in self.runs.values() for record in records}
        if len(machines) > 1:
            lines.append(
                f"Runs of {len(machines)} machines; only runs of one are paired: {'; '.join(sorted(machines))}."
            )
        return "\n".join(lines)

    def figure(self) -> "go.Figure":
        """Every seed a point; the mean of each variant with its 95 % interval."""
        import plotly.graph_objects as go

        from workbench.explain.figures import BLUE, GREY, LINES

        figure = go.Figure()
        errors = {variant: [*self._errors(variant).values()] for variant in self.runs}
        points = [(error, variant) for variant, mine in errors.items() for error in mine]
        means = [(paired.interval(mine), variant) for variant, mine in errors.items() if mine]
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            mode="markers",
            marker={"color": BLUE, "size": 9, "opacity": 0.45},
            name="one seed",
        )
        figure.add_scatter(
            x=[found.mean for found, _ in means],
            y=[variant for _, variant in means],
            error_x={"type": "data", "array": [found.half_width or 0 for found, _ in means], "color": GREY},
            mode="markers",
            marker={"color": BLUE, "size": 22, "symbol": "line-ns-open", "line": {"width": 3}},
            name="mean, 95 % interval",
        )
        figure.update_xaxes(title="top-1 error (%)", gridcolor=LINES)
        figure.update_yaxes(categoryorder="array", categoryarray=[*self.runs][::-1], gridcolor=LINES)
        plain = "rgba(0,0,0,0)"
        return figure.update_layout(height=150 + 36 * len(self.runs), paper_bgcolor=plain, plot_bgcolor=plain)

    def _errors(self, variant: str) -> dict[tuple[int, str], float]:
        """(seed, hardware) -> error of the runs that came to an end."""
        done = (record for record in self.runs[variant] if record.status == "done")
        return {(record.spec["seed"], hardware(record)): record.metrics[METRIC] for record in done}

    def _line(self, variant: str) -> dict[str, Any]:
        mine = self._errors(variant)
        theirs = self._errors(self.baseline) if self.baseline not in ("", variant) else {}
        deltas = [mine[pair] - theirs[pair] for pair in mine if pair in theirs]
        return {
            "variant": variant,
            "n": len(mine),
            "diverged": len(self.runs[variant]) - len(mine),
            **_spread("mean", [*mine.values()]),
            "std": statistics.stdev(mine.values()) if len(mine) > 1 else None,
            "pairs": len(deltas),
            **_spread("difference", deltas),
            "p": paired.paired_t(deltas),
            "p_holm": None,
            "test": TEST,
        }


def _spread(name: str, values: list[float]) -> dict[str, float | None]:
    """The mean, called `name`, and both ends of its 95 % interval."""
    mean, half, _ = paired.interval(values) if values else (None, None, 0)
    low, high = (None, None) if mean is None or half is None else (mean - half, mean + half)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _verdict(line: Any) -> str:
    """One variant in words."""
    if not line["pairs"]:
        return f"no pair of runs (n = {line['n']}); nothing follows."
    start = f"{line['difference']:+.2f} points (n = {line['pairs']}"
    if line["pairs"] == 1:
        return f"{start}); one seed says nothing about the noise."
    if math.isnan(line["p"]):
        return f"{start}); {paired.verdict(None, None, 'variants')}."
    ends = f"95 % interval {line['difference_low']:+.2f} to {line['difference_high']:+.2f}"
    tested = f"{start}, {ends}, p = {line['p']:.2g}, Holm {line['p_holm']:.2g})"
    return f"{tested}: {paired.verdict(line['p'], line['p_holm'], 'variants')}."
