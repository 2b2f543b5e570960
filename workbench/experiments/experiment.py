"""An experiment is everything that changes the numbers, and nothing else; its record is what came out."""

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from workbench import datasets
from workbench.errors import OutOfRange, WorkbenchError
from workbench.files import sha256
from workbench.names import parse
from workbench.training.recipe import Recipe, as_dict

FORMAT = 1  # raised when the engine computes something else from the same spec


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One network trained on one data set by one recipe from one seed.  A folder's path is no part of the key."""

    model: str
    dataset: str
    recipe: Recipe
    seed: int

    def __post_init__(self) -> None:
        from workbench.build import canonical

        object.__setattr__(self, "model", str(canonical(self.model)))
        object.__setattr__(self, "dataset", datasets.canonical(self.dataset))
        _check_kind(self.model, self.dataset)
        if self.recipe.backbone and not parse(self.model).detector:
            raise OutOfRange(
                f"Recipe backbone={self.recipe.backbone!r} is for detectors; {self.model} is a classifier."
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise OutOfRange(f"Seed {self.seed!r}: it must be a whole number from 0 to 2^63 - 1.")

    def spec(self) -> dict[str, Any]:
        """All settings as JSON values, every default written out."""
        from workbench.build import resolved

        return {
            "format": FORMAT,
            "model": {"name": self.model, **resolved(self.model)},
            "dataset": datasets.identity(self.dataset),
            "recipe": as_dict(self.recipe),
            "seed": self.seed,
        }

    def key(self) -> str:
        """Name of the run folder: readable words and a hash of the spec."""
        spec = self.spec()
        digest = sha256(json.dumps(spec, sort_keys=True).encode())[:12]
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.model}-{spec['dataset']['name']}-{self.seed}".lower()).strip("-")
        return f"{words[:80]}-{digest}"


def _check_kind(model: str, dataset: str) -> None:
    """Raise OutOfRange for a detector on a data set without boxes, and a classifier on one that has boxes alone."""
    detector, boxes = parse(model).detector, datasets.detects(dataset)
    if detector and not boxes:
        raise OutOfRange(
            f"{model} is a detector and {dataset} has no boxes, it is for classifiers; use one of "
            f"{', '.join(datasets.DETECTION)}, or coco:PATH."
        )
    if boxes and not detector:
        raise OutOfRange(
            f"{dataset} has boxes and is for detectors, {model} is a classifier; name a detector before it, as "
            f"retinanet-{model}, or use another data set."
        )


def outdated(spec: dict[str, Any]) -> list[str]:
    """The parts of a spec that its names do not mean any more: its record stands in no table beside those of today.

    A folder of pictures has its version in what it is called, and a user's own class is not imported for this.
    """
    from workbench.build import resolved

    try:
        model, data = spec["model"], spec["dataset"]
        today = {
            "format": FORMAT,
            "model": model if ":" in model["name"] else {"name": model["name"], **resolved(model["name"])},
            "dataset": datasets.identity(data["name"]) if data["name"] in datasets.DATASETS else data,
            "recipe": as_dict(Recipe(**spec["recipe"])),
        }
        return [part for part, value in today.items() if spec[part] != value]
    except (KeyError, TypeError, WorkbenchError):  # a name or a field that is no more
        return ["spec"]


HERE, PROJECT = "here", "by the project"


class Record(NamedTuple):
    """What one finished experiment measured.

    status: "done" or "diverged"; metrics: of the last epoch, in percent, and what traits.py reads off the network;
    origin: the runs folder, or what comes with the project.
    """

    key: str
    spec: dict[str, Any]
    status: str
    metrics: dict[str, Any]
    curves: list[dict[str, float]]
    environment: dict[str, Any]
    duration_s: float
    note: str = ""
    origin: str = HERE
