"""Trained networks to look into: the small ones that come with the project, and the runs here whose weights are kept.

data/models/<key>.json: the run's record, what the network reads, the error of the weights as stored (of a detector the
average precision), their SHA-256; data/models/<key>.safetensors: kernels and matrices in float16, vectors as they were.
"""

import logging
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench import datasets, files
from workbench.errors import Corrupt, DataMissing, OutOfRange, UnknownName
from workbench.experiments import weights
from workbench.experiments.experiment import HERE, PROJECT, Record
from workbench.experiments.store import Store
from workbench.experiments.weights import Reads, Whole
from workbench.names import parse

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.backbones import Network
    from workbench.detection.detector import Detector


log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """A network with weights.

    measured: on the test split in percent, of bundled weights as they are stored: top-1 error, of a detector AP.
    """

    key: str
    model: str
    dataset: str
    measured: float
    protocol: str
    origin: str

    def __str__(self) -> str:
        found = f"AP {self.measured:.2f} %" if detects(self.model) else f"{self.measured:.2f} % error"
        return f"{self.model}, {self.dataset}, {found}"


def known(store: Store) -> dict[str, Trained]:
    """Key -> classifier: those that come with the project, then the finished runs here with a checkpoint.

    What is damaged or stale is left out, with a warning.  Read again only when a file has changed.
    """
    return {key: one for key, one in _all(store).items() if not detects(one.model)}


def detectors(store: Store) -> dict[str, Trained]:
    """Key -> detector, as `known` has the classifiers."""
    return {key: one for key, one in _all(store).items() if detects(one.model)}


def _all(store: Store) -> dict[str, Trained]:
    described = sorted(store.models.glob("*.json"))
    runs = [path for path in sorted(store.root.glob("*/record.json")) if (path.parent / "ckpt" / "latest").exists()]
    stamps = (tuple((path, files.stamp(path)) for path in paths) for paths in (described, runs))
    return _known(*stamps, store.root)


def load(key: str, store: Store) -> tuple["Network", Reads]:
    """The classifier in eval mode, its parameters frozen, and what it reads; raises UnknownName, DataMissing, Corrupt.

    A run here is read before weights of the same run that came with the project.
    """
    return _load(key, known(store), store)


def load_detector(key: str, store: Store) -> tuple["Detector", Whole]:
    """As `load`, a detector."""
    return _load(key, detectors(store), store)


def _load(key: str, networks: dict[str, Trained], store: Store) -> Any:
    if key not in networks:
        raise UnknownName("trained network", key, networks)
    one = networks[key]
    found, reads = _here(one, store) if one.origin == HERE else weights.read(store.models / f"{key}.json")
    return _network(one.model, found, len(reads.classes)), reads


def detects(model: str) -> bool:
    """Is this the name of a detector?"""
    return parse(model).detector is not None


def export(key: str, store: Store, to: Path) -> dict[str, Any]:
    """Write the weights of a finished run here into two small files, and measure them as they are stored.

    Raises UnknownName, DataMissing, Corrupt, and OutOfRange for what float16 cannot hold.
    """
    import safetensors.torch

    networks = {key: one for key, one in _all(store).items() if one.origin == HERE}
    if key not in networks:
        raise UnknownName("run with weights", key, networks)
    one = networks[key]
    found, reads = _here(one, store)
    small = {name: (value.half() if value.dim() > 1 else value).contiguous() for name, value in found.items()}
    if large := [name for name, value in small.items() if not value.isfinite().all()]:
        raise OutOfRange(f"{large[0]} of {key} leaves float16, which ends at 65,504; such weights are not exported.")
    stored = _measured(_network(one.model, small, len(reads.classes)), _test(one, store), detects(one.model))
    data = safetensors.torch.save(small)
    record = next(record for record in store.records() if record.key == key)
    fields = {name: value for name, value in record._asdict().items() if name != "origin"}
    kept = {"record": fields, "reads": reads._asdict(), "sha256": files.sha256(data), **stored}
    files.write_atomic(to / f"{key}.safetensors", data)
    files.write_json(to / f"{key}.json", kept)
    return kept


@lru_cache(maxsize=4)
def _known(described: tuple[Any, ...], runs: tuple[Any, ...], root: Path) -> dict[str, Trained]:
    """`known` for these files, each with its stamp."""
    found = {}
    for path, *_ in described:
        try:
            kept = weights.described(path)
            found[path.stem] = _trained(kept["record"], kept[weights.measure(kept["record"])], PROJECT)
        except (Corrupt, OSError) as error:
            log.warning("%s It is left out.", error)
    keys = {path.parent.name for path, *_ in runs}
    for record in takewhile(lambda record: record.origin == HERE, Store(root).records()):  # which come first
        if record.key in keys and (measured := weights.measure(record)) in record.metrics:  # it did not diverge
            found[record.key] = _trained(record, record.metrics[measured], HERE)
    return found


def _trained(record: Record, measured: float, origin: str) -> Trained:
    from workbench.experiments.compare import protocol

    spec = record.spec
    data = datasets.label(spec["dataset"])
    return Trained(record.key, spec["model"]["name"], data, measured, protocol(record), origin)


def _here(one: Trained, store: Store) -> tuple[dict[str, "Tensor"], Reads | Whole]:
    test, found = _test(one, store), store.weights(one.key)
    if detects(one.model):
        return found, Whole(tuple(test.classes))
    return found, Reads(test.side, tuple(test.mean), tuple(test.std), tuple(test.classes))


def _test(one: Trained, store: Store) -> Any:
    """The test split of the data set that it was trained on."""
    from workbench.build import image_size

    if one.dataset not in datasets.DATASETS:
        raise DataMissing(
            f"{one.key} was trained on {one.dataset}, whose place is not recorded; its curves are on the page Curves."
        )
    if detects(one.model):
        return datasets.load_boxes(one.dataset, store.data)[1]
    return datasets.load(one.dataset, store.data, image_size(one.model))[1]


def _measured(network: Any, test: Any, detector: bool) -> dict[str, float]:
    """Errors and loss, or average precision, on the test split."""
    if not detector:
        import torch

        from workbench.training.evaluate import evaluate

        return evaluate(network, test.batches(torch.device("cpu"), 500))
    from workbench.detection import training
    from workbench.detection.batches import DetectionBatches

    return training.evaluate(network, DetectionBatches(test, training.TESTED), "float32")


def _network(model: str, found: dict[str, "Tensor"], classes: int) -> Any:
    from workbench.build import build

    network = build(model, classes, checked=False)
    try:
        network.load_state_dict(found)  # float16 becomes float32
    except RuntimeError as error:
        raise Corrupt(f"These are not the weights of {model} ({str(error).splitlines()[-1].strip()}).") from error
    return network.eval().requires_grad_(False)
