"""Trained networks to look into: the small ones that come with the project, and the runs here whose weights are kept.

data/models/<key>.json: the run's record, what the network reads, the error of the weights as stored, their SHA-256;
data/models/<key>.safetensors: kernels and matrices in float16, vectors as they were.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from workbench import datasets, files
from workbench.errors import Corrupt, DataMissing, UnknownName
from workbench.experiments.experiment import HERE, PROJECT, Record
from workbench.experiments.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.backbones import Network


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
    """Key -> network: those that come with the project, then the finished runs here with a checkpoint."""
    found = {}
    for path in sorted(folder(store).glob("*.json")):
        kept = _kept(path)
        found[path.stem] = _trained(Record(**kept["record"]), kept["top1_error"], PROJECT)
    for record in store.records():
        if record.origin == HERE and record.status == "done" and (store.root / record.key / "ckpt" / "latest").exists():
            found[record.key] = _trained(record, record.metrics["top1_error"], HERE)
    return found


def load(key: str, store: Store) -> tuple["Network", Reads]:
    """The network in eval mode, its parameters frozen, and what it reads; raises UnknownName, DataMissing, Corrupt.

    A run here is read before weights of the same run that came with the project.
    """
    one = known(store).get(key)
    if one is None:
        raise UnknownName("trained network", key, known(store))
    weights, reads = _here(one, store) if one.origin == HERE else _bundled(folder(store) / f"{key}.json")
    return _network(one.model, weights, len(reads.classes)), reads


def export(key: str, store: Store, to: Path) -> dict[str, Any]:
    """Write the weights of a finished run here into two small files, and measure their error as they are stored."""
    import safetensors.torch
    import torch

    from workbench.training.evaluate import evaluate

    one = known(store).get(key)
    if one is None or one.origin != HERE:
        raise UnknownName("run with weights", key, [key for key, one in known(store).items() if one.origin == HERE])
    weights, reads = _here(one, store)
    small = {name: (value.half() if value.dim() > 1 else value).contiguous() for name, value in weights.items()}
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


def _trained(record: Record, error: float, origin: str) -> Trained:
    from workbench.experiments.compare import protocol

    spec = record.spec
    return Trained(record.key, spec["model"]["name"], datasets.label(spec["dataset"]), error, protocol(record), origin)


def _kept(path: Path) -> dict[str, Any]:
    kept = files.read_json(path)
    if not {"record", "reads", "sha256", "top1_error"} <= {*kept}:
        raise Corrupt(f"{path} does not describe weights; fetch it again from the project.")
    return kept


def _bundled(path: Path) -> tuple[dict[str, "Tensor"], Reads]:
    import safetensors.torch

    kept, file = _kept(path), path.with_suffix(".safetensors")
    data = file.read_bytes() if file.is_file() else b""
    if files.sha256(data) != kept["sha256"]:
        raise Corrupt(f"{file} is not what was written (sha256); fetch it again from the project.")
    fields = kept["reads"]
    return safetensors.torch.load(data), Reads(
        fields["side"], *(tuple(fields[key]) for key in ("mean", "std", "classes"))
    )


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
