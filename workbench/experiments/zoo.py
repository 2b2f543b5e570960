"""Trained networks to look into: the small ones that come with the project, and the runs here whose weights are kept.

data/models/<key>.json: the run's record, what the network reads, the error of the weights as stored, their SHA-256;
data/models/<key>.safetensors: kernels and matrices in float16, vectors as they were.
"""

import logging
import math
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from workbench import datasets, files
from workbench.errors import Corrupt, DataMissing, OutOfRange, UnknownName
from workbench.experiments.experiment import HERE, PROJECT, Record, outdated
from workbench.experiments.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.backbones import Network


log = logging.getLogger(__name__)
LIMIT_BYTES = 200_000_000  # of a file of weights, which is read as a whole
LIMIT_SIDE = 1024  # of a picture that a network reads, px


class Trained(NamedTuple):
    """A network with weights.  error: top-1 on the test split in percent, of bundled weights as they are stored."""

    key: str
    model: str
    dataset: str
    error: float
    protocol: str
    origin: str

    def __str__(self) -> str:
        return f"{self.model}, {self.dataset}, {self.error:.2f} % error"


class Reads(NamedTuple):
    """What a network reads: pictures of `side` px, their channels' mean and deviation in [0, 1], and its classes."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def uint8(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) -> (side, side, 3): the middle square, resized."""
        from PIL import Image, ImageOps

        size = (self.side, self.side)
        return np.asarray(ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.BILINEAR))

    def normalised(self, picture: np.ndarray) -> "Tensor":
        """(H, W, 3) uint8 -> (1, 3, side, side) float32, as in training."""
        import torch

        values = (self.uint8(picture) / 255 - np.array(self.mean)) / np.array(self.std)
        return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None].contiguous()


def known(store: Store) -> dict[str, Trained]:
    """Key -> network: those that come with the project, then the finished runs here with a checkpoint.

    What is damaged or stale is left out, with a warning.  Read again only when a file has changed.
    """
    described = sorted(folder(store).glob("*.json"))
    runs = [path for path in sorted(store.root.glob("*/record.json")) if (path.parent / "ckpt" / "latest").exists()]
    stamps = (tuple((path, files.stamp(path)) for path in paths) for paths in (described, runs))
    return dict(_known(*stamps, store.root))


def load(key: str, store: Store) -> tuple["Network", Reads]:
    """The network in eval mode, its parameters frozen, and what it reads; raises UnknownName, DataMissing, Corrupt.

    A run here is read before weights of the same run that came with the project.
    """
    networks = known(store)
    if key not in networks:
        raise UnknownName("trained network", key, networks)
    one = networks[key]
    weights, reads = _here(one, store) if one.origin == HERE else _bundled(folder(store) / f"{key}.json")
    return _network(one.model, weights, len(reads.classes)), reads


def export(key: str, store: Store, to: Path) -> dict[str, Any]:
    """Write the weights of a finished run here into two small files, and measure their error as they are stored.

    Raises UnknownName, DataMissing, Corrupt, and OutOfRange for what float16 cannot hold.
    """
    import safetensors.torch
    import torch

    from workbench.training.evaluate import evaluate

    networks = {key: one for key, one in known(store).items() if one.origin == HERE}
    if key not in networks:
        raise UnknownName("run with weights", key, networks)
    one = networks[key]
    weights, reads = _here(one, store)
    small = {name: (value.half() if value.dim() > 1 else value).contiguous() for name, value in weights.items()}
    if large := [name for name, value in small.items() if not value.isfinite().all()]:
        raise OutOfRange(f"{large[0]} of {key} leaves float16, which ends at 65,504; such weights are not exported.")
    _, test = _splits(one, store)
    stored = evaluate(_network(one.model, small, len(reads.classes)), test.batches(torch.device("cpu"), 500))
    data = safetensors.torch.save(small)
    record = next(record for record in store.records() if record.key == key)
    fields = {name: value for name, value in record._asdict().items() if name != "origin"}
    kept = {"record": fields, "reads": reads._asdict(), "sha256": files.sha256(data), **stored}
    files.write_atomic(to / f"{key}.safetensors", data)
    files.write_json(to / f"{key}.json", kept)
    return kept


def folder(store: Store) -> Path:
    """Where the weights that come with the project lie: beside its records."""
    return store.published.parent / "models"


@lru_cache(maxsize=4)
def _known(described: tuple[Any, ...], runs: tuple[Any, ...], root: Path) -> dict[str, Trained]:
    """`known` for these files, each with its stamp."""
    found = {}
    for path, *_ in described:
        try:
            kept = _kept(path)
            found[path.stem] = _trained(kept["record"], kept["top1_error"], PROJECT)
        except (Corrupt, OSError) as error:
            log.warning("%s It is left out.", error)
    keys = {path.parent.name for path, *_ in runs}
    for record in takewhile(lambda record: record.origin == HERE, Store(root).records()):  # which come first
        if record.key in keys and "top1_error" in record.metrics:  # it did not diverge
            found[record.key] = _trained(record, record.metrics["top1_error"], HERE)
    return found


def _trained(record: Record, error: float, origin: str) -> Trained:
    from workbench.experiments.compare import protocol

    spec = record.spec
    return Trained(record.key, spec["model"]["name"], datasets.label(spec["dataset"]), error, protocol(record), origin)


def _kept(path: Path) -> dict[str, Any]:
    """What the file says, with the record as a Record and what the network reads as Reads; raises Corrupt."""
    kept = files.read_json(path)
    try:
        record, fields, error = Record(**kept["record"]), kept["reads"], float(kept["top1_error"])
        sizes, classes = [fields["side"], *fields["mean"], *fields["std"]], fields["classes"]
        whole = (
            record.key == path.stem
            and ":" not in record.spec["model"]["name"]  # a user's own class, whose file would be run
            and isinstance(kept["sha256"], str)
            and 0 <= error <= 100
            and isinstance(fields["side"], int)
            and 0 < fields["side"] <= LIMIT_SIDE
            and len(fields["mean"]) == len(fields["std"]) == 3
            and all(math.isfinite(value) for value in sizes)
            and min(fields["std"]) > 0
            and isinstance(classes, list)
            and len({*classes}) == len(classes) > 1
            and all(isinstance(name, str) for name in classes)
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Corrupt(f"{path} does not describe weights ({error!r}); fetch it again from the project.") from error
    if not whole:
        raise Corrupt(f"{path} does not describe weights; fetch it again from the project.")
    if parts := outdated(record.spec):
        raise Corrupt(f"{path} was made with another {' and '.join(parts)}; export the run again.")
    mean, std = tuple(fields["mean"]), tuple(fields["std"])
    return kept | {"record": record, "reads": Reads(fields["side"], mean, std, tuple(classes))}


def _bundled(path: Path) -> tuple[dict[str, "Tensor"], Reads]:
    import safetensors.torch

    from workbench.training.checkpoint import HEADER_BYTES

    kept, file = _kept(path), path.with_suffix(".safetensors")
    if not file.is_file():
        raise DataMissing(f"The weights {file} are not here; fetch them again from the project.")
    if file.stat().st_size > LIMIT_BYTES:
        raise Corrupt(f"{file} has more than {LIMIT_BYTES / 1e6:.0f} MB; fetch it again from the project.")
    data = file.read_bytes()
    if files.sha256(data) != kept["sha256"]:
        raise Corrupt(f"{file} is not what was written (sha256); fetch it again from the project.")
    try:
        if int.from_bytes(data[:8], "little") > HEADER_BYTES:
            raise ValueError(f"a header of more than {HEADER_BYTES / 1e6:.0f} MB")
        return safetensors.torch.load(data), kept["reads"]
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch has not
        raise Corrupt(f"{file} cannot be read ({error}); fetch it again from the project.") from error


def _here(one: Trained, store: Store) -> tuple[dict[str, "Tensor"], Reads]:
    _, test = _splits(one, store)
    return store.weights(one.key), Reads(test.side, tuple(test.mean), tuple(test.std), tuple(test.classes))


def _splits(one: Trained, store: Store) -> Any:
    from workbench.build import image_size

    if one.dataset not in datasets.DATASETS:
        raise DataMissing(
            f"{one.key} was trained on {one.dataset}, whose place is not recorded; its curves are on the page Curves."
        )
    return datasets.load(one.dataset, store.data, image_size(one.model))


def _network(model: str, weights: dict[str, "Tensor"], classes: int) -> "Network":
    from workbench.build import build

    network = build(model, classes, checked=False)
    try:
        network.load_state_dict(weights)  # float16 becomes float32
    except RuntimeError as error:
        raise Corrupt(f"These are not the weights of {model} ({str(error).splitlines()[-1].strip()}).") from error
    return network.eval().requires_grad_(False)
