"""How long a run takes on this machine: measured in records, scaled from them by multiply-adds, or probed.

One run is `epochs` times its training pictures, of three forwards each (forward and the two products of the backward),
and its test pictures, of one:

    work = epochs x (3 x train + test) x multiply-adds of one picture
    time = work x rate,   rate = seconds / work of what was measured

For the model and data set that was measured the multiply-adds cancel: time = seconds an epoch x epochs.
"""

import heapq
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from workbench import datasets
from workbench.errors import WorkbenchError
from workbench.experiments.compare import moved
from workbench.experiments.experiment import Record
from workbench.experiments.grid import Resources, cores, gpus
from workbench.experiments.store import Store
from workbench.names import parse
from workbench.training.recipe import Recipe

NEAREST, REACH = 3, 10  # of the measured groups that a rate is scaled from, and how many times the work apart
PROBE_S = 20  # after which no other model is probed
LARGE_PX, FEW = 128, 4  # pictures from this side on are probed with one step of a few


class Data(NamedTuple):
    """Pictures for training and testing, classes, their side in pixels (0: what the network is made for).

    size_bytes: on disk with its archive, once fetched; folder: where below the data folder, "" if nothing is fetched.
    """

    train: int
    test: int
    classes: int
    side: int = 0
    size_bytes: int = 0
    folder: str = ""


COUNTS = {
    "cifar10": Data(50_000, 10_000, 10, 32, 357_000_000, "cifar-10-batches-py"),
    "cifar100": Data(50_000, 10_000, 100, 32, 355_000_000, "cifar-100-python"),
    "imagenet": Data(1_281_167, 50_000, 1000, 0, 310_000_000_000, "imagenet"),
    "imagenette": Data(9_469, 3_925, 10, 0, 680_000_000, "imagenette2-320"),
    "coco2017": Data(117_266, 5_000, 80, 0, 40_000_000_000, "coco"),  # those with boxes
    "coco-mini": Data(314, 286, 80, 0, 17_000_000, "coco_mini_320"),  # likewise
    "shapes": Data(1_000, 200, 6),
    "layouts": Data(4_096, 2_048, 32, 16),
}


class Rate(NamedTuple):
    """Seconds of one unit of work, and how that is known."""

    seconds: float
    how: str


class Setting(NamedTuple):
    """Where runs would be trained: the device's name, how many GPUs, 0 for the CPU, runs at a time, threads of each."""

    device: str
    gpus: int
    jobs: int
    threads: int


def data(name: str, store: Store) -> Data:
    """The size of a data set, from constants where it is absent; a folder of one's own pictures is listed."""
    if name in COUNTS:
        return COUNTS[name]
    train, test = (datasets.load_boxes if datasets.detects(name) else datasets.load)(name, store.data)
    return Data(len(train), len(test), len(train.classes))


def work(model: str, size: Data, epochs: int) -> float:
    """Multiply-adds of `epochs` of training and testing."""
    from workbench.explain.complexity import count

    return epochs * (3 * size.train + size.test) * count(model, size.classes, size.side or None).macs


def setting(resources: Resources, left: int) -> Setting:
    """How the grid would spread `left` runs over this machine; raises OutOfRange for a GPU that is not here."""
    import torch

    from workbench.training.environment import device_name
    from workbench.training.processes import check_device

    check_device(resources.device)
    cards = gpus(resources.device)
    jobs = resources.jobs or cards or cores()
    name = device_name(torch.device("cuda" if cards else "cpu"))
    return Setting(name, cards, max(1, min(jobs, left)), cores() if cards else max(1, cores() // jobs))


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """When the last run ends, each begun in its turn as soon as one of `jobs` places is free."""
    ends = [0.0] * jobs
    for duration_s in seconds:
        heapq.heapreplace(ends, ends[0] + duration_s)
    return max(ends)


class Throughput:
    """Rates on one device, from its records, and from probes where those say nothing."""

    def __init__(self, store: Store, where: Setting):
        self.where, self.probed_s = where, 0.0
        self.probes: dict[tuple[str, str], tuple[float, float]] = {}  # (model, precision) -> work a picture, rate
        self.measured: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
        for record in store.records():
            spec, machine = record.spec, record.environment
            alone = machine.get("processes", 1) == 1 and not moved(record)
            same = machine["device"] == where.device and not machine["compiled"]
            if same and alone and record.status == "done" and record.curves and record.duration_s > 0:
                key = spec["model"]["name"], datasets.label(spec["dataset"]), spec["recipe"]["precision"]
                self.measured[key].append(record)

    def rate(self, model: str, label: str, size: Data, recipe: Recipe) -> Rate:
        """Of this model on this data set, called `label` in records."""
        if own := self.measured.get((model, label, recipe.precision)):
            return self._of_records(model, own, size)
        return self._scaled(model, size, recipe) or self._probed(model, size, recipe)

    def _of_records(self, model: str, records: list[Record], size: Data) -> Rate:
        """Of records of one model and data set; those of as many threads as planned, where there are any."""
        chosen = [record for record in records if record.environment["threads"] == self.where.threads] or records
        threads = {record.environment["threads"] for record in chosen}
        other = "" if self.where.gpus or threads == {self.where.threads} else f" with {_list(threads)} thread(s)"
        done = work(model, size, sum(len(record.curves) for record in chosen))
        seconds = sum(record.duration_s for record in chosen)
        return Rate(seconds / done, f"measured in {len(chosen)} run{'s' * (len(chosen) > 1)}{other}")

    def _scaled(self, model: str, size: Data, recipe: Recipe) -> Rate | None:
        """The mean rate of the measured models of its kind of the nearest work a picture, if that is not far away."""
        mine, found = work(model, size, 1) / (3 * size.train + size.test), []
        for (name, dataset, precision), records in self.measured.items():
            known = COUNTS.get(dataset)
            alike = bool(parse(name).detector) == bool(parse(model).detector)
            if known and alike and precision == recipe.precision:
                try:
                    theirs = work(name, known, 1) / (3 * known.train + known.test)
                except WorkbenchError:  # a class of the user's own that is not at hand
                    continue
                found.append((abs(math.log(mine / theirs)), name, records, known))
        near = sorted((one for one in found if one[0] <= math.log(REACH)), key=lambda one: one[:2])[:NEAREST]
        if not near:
            return None
        rates = [self._of_records(name, records, known).seconds for _, name, records, known in near]
        runs = sum(len(records) for _, _, records, _ in near)
        return Rate(sum(rates) / len(rates), f"estimated from {runs} other run{'s' * (runs > 1)}")

    def _probed(self, model: str, size: Data, recipe: Recipe) -> Rate:
        """Of a few steps here and now; once they have taken long enough, of the nearest model that was probed."""
        key, mine = (model, recipe.precision), work(model, size, 1) / (3 * size.train + size.test)
        others = [(abs(math.log(mine / theirs)), rate) for theirs, rate in self.probes.values()]
        if key not in self.probes and others and self.probed_s > PROBE_S:
            return Rate(min(others)[1], "estimated from another model, probed on this machine")
        if key not in self.probes:
            start = time.monotonic()
            self.probes[key] = mine, step_s(model, size, recipe, self.where) / (3 * mine)
            self.probed_s += time.monotonic() - start
        return Rate(self.probes[key][1], "probed on this machine")


def step_s(model: str, size: Data, recipe: Recipe, where: Setting) -> float:
    """Seconds of training for one picture: the median of three steps on random pictures, after one or, on a GPU, some.

    On a CPU, of large pictures, one step of a few stands for the batch, after one.
    """
    import torch

    from workbench.build import image_size

    side = size.side or image_size(model)
    small = side < LARGE_PX or where.gpus
    batch = recipe.batch if small else min(FEW, recipe.batch)
    settings: dict[str, Any] = {"lr": 1e-6, "schedule": "constant", "milestones": (), "epochs": 100}
    settings |= {"warmup": 0, "updates": 0, "backbone": ""}
    settings |= {"batch": batch, "accumulate": recipe.accumulate if small else 1}
    threads = torch.get_num_threads()
    torch.set_num_threads(where.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            training = _training(model, size.classes, side, replace(recipe, **settings), where)
            times = [_timed(training) for _ in range(13 if where.gpus else 4 if small else 2)]
        return statistics.median(times[-3:] if small else times[-1:]) / batch
    finally:
        torch.set_num_threads(threads)


def _training(model: str, classes: int, side: int, recipe: Recipe, where: Setting) -> Any:
    """Of one batch of random pictures; of figures in boxes for a detector, which makes them as large as it needs."""
    import torch

    from workbench.build import build
    from workbench.datasets import shapes
    from workbench.datasets.memory import Split
    from workbench.detection.training import DetectionTraining
    from workbench.training.loop import Training

    device = "cuda" if where.gpus else "cpu"
    if parse(model).detector:
        figures = shapes.make(recipe.batch, seed=0)
        return DetectionTraining(build(model, classes), figures, figures, recipe, 0, device)
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (recipe.batch, side, side, 3), generator=random, dtype=torch.uint8)
    one = (0.5, 0.5, 0.5)
    split = Split(noise, torch.arange(recipe.batch) % classes, tuple(map(str, range(classes))), one, one)
    return Training(build(model, classes, side), split, split, recipe, 0, device)


def _timed(training: Any) -> float:
    start = time.perf_counter()
    training.step()
    training.look()
    return time.perf_counter() - start


def _list(numbers: set[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))
