"""An experiment at its very start: its data, its network, its training; and what is read off that at its end."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import datasets
from workbench.errors import DataMissing
from workbench.experiments.experiment import Experiment
from workbench.names import parse

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.experiments.store import Store


def splits(experiment: Experiment, root: Path) -> tuple[Any, Any]:
    """The training and the test split, of pictures for its network; raises DataMissing or Corrupt."""
    from workbench.build import image_size

    if parse(experiment.model).detector:
        return datasets.load_boxes(experiment.dataset, root)
    return datasets.load(experiment.dataset, root, image_size(experiment.model))


def backbone(experiment: Experiment) -> Experiment | None:
    """The run that the backbone of this detector comes from; None where it starts from fresh weights."""
    from workbench.training.recipe import recipe

    if not experiment.recipe.backbone:
        return None
    dataset, _, name = experiment.recipe.backbone.rpartition(":")
    bare = str(replace(parse(experiment.model), detector=None))
    return Experiment(model=bare, dataset=dataset, recipe=recipe(name), seed=experiment.seed)


def check_backbone(experiment: Experiment, store: "Store") -> None:
    """Raise DataMissing unless the weights that the backbone starts from are here."""
    bare = backbone(experiment)
    places = (store.models / f"{bare.key()}.json", store.root / bare.key() / "ckpt" / "latest") if bare else ()
    if bare and not any(place.is_file() for place in places):
        name = experiment.recipe.backbone.rpartition(":")[2]
        raise DataMissing(
            f"{experiment.model} starts from a trained {bare.model}, which is not in {store.root}; first run "
            f"`workbench train {bare.model} --data {bare.dataset} --recipe {name} --seed {bare.seed}`."
        )


def trained(bare: Experiment, store: "Store") -> dict[str, "Tensor"]:
    """Weights for a backbone: those that come with the project, so that all start alike, else those of the run here.

    Raises DataMissing or Corrupt.
    """
    from workbench.experiments import weights

    described = store.models / f"{bare.key()}.json"
    if not described.is_file():
        return store.weights(bare.key())
    found, _ = weights.read(described)
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def training(experiment: Experiment, found: tuple[Any, Any], processes: Any, settings: tuple, store: "Store") -> Any:
    """The training of an experiment on these splits, before its first step.  settings: see training/loop.py."""
    import torch

    from workbench.build import build

    train, test = found
    torch.manual_seed(experiment.seed)
    given = train, test, experiment.recipe, experiment.seed, processes, *settings
    if not parse(experiment.model).detector:
        from workbench.training.loop import Training

        return Training(build(experiment.model, len(train.classes), train.side), *given)
    from workbench.detection.start import start
    from workbench.detection.training import DetectionTraining

    detector = build(experiment.model, len(train.classes))
    if bare := backbone(experiment):
        start(detector, trained(bare, store))
    return DetectionTraining(detector, *given)


def learned(training: Any) -> dict[str, Any]:
    """What the metrics of a finished run say besides its curves: traits.py; of a detector, what its data skipped."""
    from workbench.experiments import traits

    if not training.processes.main:
        return {}
    train, test = training.train.split, training.test.split
    if not hasattr(test, "boxes"):
        return traits.learned(training.plain, test)
    skipped = {"train": train.skipped, "test": test.skipped}
    return {"skipped": skipped} | traits.shares(training.plain)
