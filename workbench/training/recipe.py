"""A recipe: everything about training that changes the numbers.  The learning rate is a pure function of the step."""

import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from workbench.errors import OutOfRange, UnknownName


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with momentum.  schedule: "steps" (times gamma at each milestone epoch), "cosine", "onecycle", "constant".

    accumulate: a batch is computed in that many equal parts, for memory; BN sees each part on its own.
    warmup: the rate rises linearly over the first updates, so many, to what the schedule says.
    updates: the run ends after so many, within the last of its epochs, and milestones are updates; 0: with its epochs.
    backbone: "DATA:RECIPE" of the run of the bare network, of the same seed, that a detector's backbone comes from,
    with its BN, stem and first stage frozen; "" starts from fresh weights.
    """

    batch: int
    epochs: int
    lr: float
    schedule: str = "steps"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    precision: str = "float32"
    accumulate: int = 1
    warmup: int = 0
    updates: int = 0
    backbone: str = ""

    def __post_init__(self) -> None:
        for key, low, high in LIMITS:
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise OutOfRange(f"Recipe {key}={value!r}: it must be a number from {low} to {high}.")
            if key not in WHOLE:
                object.__setattr__(self, key, float(value))  # 1 and 1.0 are one recipe
            elif not isinstance(value, int):
                raise OutOfRange(f"Recipe {key}={value!r}: it must be a whole number.")
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise OutOfRange(f"Recipe {key}={getattr(self, key)!r}: use {' or '.join(map(str, allowed))}.")
        if self.nesterov and not self.momentum:
            raise OutOfRange("Recipe nesterov=True needs a momentum above 0.")
        if self.batch % self.accumulate:
            raise OutOfRange(f"Recipe accumulate={self.accumulate}: it must divide the batch, {self.batch}.")
        if not isinstance(self.backbone, str) or (self.backbone and not re.fullmatch(r".+:[^:]+", self.backbone)):
            raise OutOfRange(f'Recipe backbone={self.backbone!r}: it must be "DATA:RECIPE" or "".')
        marks = self.milestones
        if not isinstance(marks, tuple | list) or not all(type(mark) is int and mark >= 0 for mark in marks):
            raise OutOfRange(f"Recipe milestones={marks!r}: they must be epochs or updates, whole numbers.")
        object.__setattr__(self, "milestones", tuple(marks))

    def length(self, steps_per_epoch: int) -> int:
        """Updates of the whole run; raises OutOfRange where they do not end within the last of the epochs."""
        if not self.updates:
            return self.epochs * steps_per_epoch
        epochs = math.ceil(self.updates / steps_per_epoch)
        if epochs != self.epochs:
            raise OutOfRange(
                f"{self.updates:,} updates take {epochs:,} epochs of {steps_per_epoch:,} batches, and the recipe says "
                f"{self.epochs:,}: it is made for another data set. Use one whose length is in epochs."
            )
        return self.updates

    def lasting(self, epochs: int) -> "Recipe":
        """The same for other epochs: milestones and updates move in proportion.

        For more epochs than it has, a length in updates becomes one in epochs: only the data set tells in which epoch
        they would end.
        """
        whole, updates = self.epochs, round(self.updates * epochs / self.epochs)
        if updates and epochs > self.epochs:
            whole, updates = self.updates, 0
        marks = tuple(round(mark * epochs / whole) for mark in self.milestones)
        return replace(self, epochs=epochs, milestones=marks, updates=updates)

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of the update number `step`, from 0."""
        warm = min(1, (step + 1) / self.warmup) if self.warmup else 1
        return warm * self._scheduled(step, steps_per_epoch)

    def _scheduled(self, step: int, steps_per_epoch: int) -> float:
        total = self.updates or self.epochs * steps_per_epoch
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "steps":
            unit = 1 if self.updates else steps_per_epoch
            return self.lr * self.gamma ** sum(step >= m * unit for m in self.milestones)
        if self.schedule == "cosine":
            return self.lr / 2 * (1 + math.cos(math.pi * step / total))
        return one_cycle(step, total, self.lr)

    def describe(self) -> str:
        """The protocol in one line, for tables."""
        schedule = {
            "constant": f"lr {self.lr:g}",
            "cosine": f"cosine lr {self.lr:g}",
            "onecycle": f"one-cycle lr {self.lr:g}",
            "steps": f"lr {self.lr:g} x{self.gamma:g} at {list(self.milestones)}",
        }[self.schedule]
        momentum = (
            f"{'Nesterov' if self.nesterov else 'momentum'} {self.momentum:g}, weight decay {self.weight_decay:g}"
        )
        if self.warmup:
            schedule += f" after {self.warmup} updates of warm-up"
        start = f", backbone from {self.backbone}, its BN and first stage frozen" if self.backbone else ""
        length = f"{self.updates} updates in " if self.updates else ""
        length += f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        batch = f"{self.batch}" if self.accumulate == 1 else f"{self.batch} in {self.accumulate} parts"
        return f"{length}, batch {batch}, {schedule}, {momentum}, {self.precision}{start}"


LIMITS = (
    ("batch", 1, 65536),
    ("epochs", 1, 10_000),
    ("accumulate", 1, 65536),
    ("lr", 1e-12, 1e3),
    ("gamma", 1e-12, 1),
    ("momentum", 0, 0.9999),
    ("weight_decay", 0, 10),
    ("warmup", 0, 1_000_000),
    ("updates", 0, 100_000_000),
)
WHOLE = ("batch", "epochs", "accumulate", "warmup", "updates")
LATER = {"accumulate": 1, "warmup": 0, "updates": 0, "backbone": ""}  # at these values a recipe is as it was before
CHOICES = {
    "schedule": ("steps", "cosine", "onecycle", "constant"),
    "precision": ("float32", "bf16", "fp16"),
    "nesterov": (True, False),
}


def one_cycle(step: int, total: int, peak: float) -> float:
    """torch's OneCycleLR as it comes: cosine up from peak / 25 in 30 % of the steps, then down to peak / 250,000."""
    up = 0.3 * total - 1
    low, end = peak / 25, peak / 25 / 1e4
    start, stop, share = (low, peak, step / up) if step <= up else (peak, end, (step - up) / (total - 1 - up))
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))


COCO_1X: dict[str, Any] = {"batch": 16, "epochs": 13, "updates": 90_000, "milestones": (60_000, 80_000), "warmup": 500}
DCA_COCO: dict[str, Any] = {
    "batch": 16,
    "epochs": 24,
    "milestones": (18, 22),
    "warmup": 500,
    "backbone": "imagenet:dca-imagenet",
}
RECIPES = {
    "smoke": Recipe(batch=64, epochs=3, lr=0.15, schedule="onecycle", weight_decay=5e-4),
    "smoke-brief": Recipe(batch=64, epochs=1, lr=0.15, schedule="onecycle", weight_decay=5e-4),
    "smoke-long": Recipe(batch=32, epochs=6, lr=0.2, schedule="onecycle", weight_decay=5e-4),
    "cifar-short": Recipe(batch=128, epochs=5, lr=0.4, schedule="onecycle", weight_decay=5e-4, precision="bf16"),
    "cifar-ten-epochs": Recipe(batch=128, epochs=10, lr=0.4, schedule="onecycle", weight_decay=5e-4, precision="bf16"),
    # The usual one of CIFAR ResNets (Idelbayev, github.com/akamaster/pytorch_resnet_cifar10), about He et al. (CVPR
    # 2016) 4.2 in 200 epochs; its errors, ResNet-20 8.27 % and ResNet-56 6.61 %, are those of the best epoch.
    "resnet-cifar": Recipe(batch=128, epochs=200, lr=0.1, milestones=(100, 150)),
    # For detectors: on drawn figures, the same at ten times the rate, and on a few photographs; no paper's.
    "shapes": Recipe(batch=8, epochs=5, lr=0.02, schedule="onecycle"),
    "shapes-tenfold": Recipe(batch=8, epochs=5, lr=0.2, schedule="onecycle"),
    "coco-mini": Recipe(batch=4, epochs=12, lr=0.01, schedule="onecycle", backbone="cifar10:cifar-short"),
    "coco-mini-fresh": Recipe(batch=4, epochs=12, lr=0.01, schedule="onecycle"),
    # For a folder of one's own photographs; no paper's.
    "pictures": Recipe(batch=64, epochs=30, lr=0.1, schedule="onecycle", precision="bf16"),
    # CRA III-B: "batch size 64 for 300 epochs ... 0.1 and divided by 10 at the epoch of 150 and 225".  Decay: III-A.
    "cra-cifar": Recipe(batch=64, epochs=300, lr=0.1, milestones=(150, 225)),
    # CRA III-A: "train 100 epochs totally. The initial learning rate is 0.1 and divided by 10 every 30 epochs with a
    # batch size of 256. The weight decay is 1e-4. All networks are trained using SGD optimizer with 0.9 momentum".
    "cra-imagenet": Recipe(batch=256, epochs=100, lr=0.1, milestones=(30, 60, 90)),
    # DCA 4.1: "SGD with Nesterov momentum of 0.9 and a weight decay of 0.0001. The learning rate is set to 0.1
    # initially and lowered by a factor of 10 every 30 epochs", 100 epochs, batch 256 on 8 GPUs.
    "dca-imagenet": Recipe(batch=256, epochs=100, lr=0.1, milestones=(30, 60, 90), nesterov=True),
    # DCA 4.1: "For lightweight models like MnasNet and MobileNetV2, we adopt cosine annealing learning rate scheduler
    # and train the models for 150 epochs with 64 images per GPU", of which there were 8.
    "dca-mobile": Recipe(batch=512, epochs=150, lr=0.1, schedule="cosine", nesterov=True),
    # AW 4.1 gives none: "produced using the source code from [29]".  CBAM's repository: 90 epochs, batch 256, 0.1
    # divided by 10 every 30 epochs, decay 1e-4.
    "aw-imagenet": Recipe(batch=256, epochs=90, lr=0.1, milestones=(30, 60)),
    # Bridge 3.2.2: "learning rate being set to 0.1, momentum set to 0.9 and batch size being set to 128 images ... for
    # 150 epochs".  Its repository divides the rate by 10 at 85 and 130, and decays by 1e-4.
    "bridge-senet": Recipe(batch=128, epochs=150, lr=0.1, milestones=(85, 130)),
    # Bridge 3.2.1: "25 epoch", and a rate of 0.001 in its log.  The Keras notebook behind it uses Adam and a batch of
    # 32; this engine has SGD alone, so this row is not that protocol.
    "bridge-resnet": Recipe(batch=32, epochs=25, lr=0.01, schedule="constant"),
    # CRA III-C: "backbones are pre-trained on ImageNet 2012. We use SGD optimizer and set batch size to 16. The initial
    # learning rate is 0.1 and we totally train 90k iterations. The learning rate is divided by 10 at 60k and 80k
    # iterations with 500 iterations warmup to the initial learning rate".  Momentum, decay, what is frozen: the usual.
    "cra-coco": Recipe(**COCO_1X, lr=0.1, backbone="imagenet:cra-imagenet"),
    # The same with the usual rate of RetinaNet (Lin et al., ICCV 2017), a tenth of what is printed.
    "cra-coco-usual": Recipe(**COCO_1X, lr=0.01, backbone="imagenet:cra-imagenet"),
    # DCA 4.3: "24 epochs using synchronized SGD with a weight decay of 0.0001 and momentum of 0.9. The learning rate
    # is set to 0.02 for Cascade R-CNN and 0.01 for RetinaNet ... decay the learning rate by a factor of 10 at 18th and
    # 22th epochs", 16 pictures a batch; "default settings" of MMDetection: 500 updates of warm-up, frozen BN.
    "dca-coco-retinanet": Recipe(**DCA_COCO, lr=0.01),
    "dca-coco-cascade": Recipe(**DCA_COCO, lr=0.02),
    # AW 4.2 states no schedule: an assumption, Detectron's "1x" of Faster R-CNN with FPN.
    "aw-coco": Recipe(**COCO_1X, lr=0.02, backbone="imagenet:aw-imagenet"),
}


def recipe(name: str) -> Recipe:
    """The recipe of this name; raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    return RECIPES[name]


def as_dict(value: Recipe) -> dict:
    """The recipe as plain JSON values; a setting that came later is left out at its default, so that keys stay."""
    plain = {field.name: getattr(value, field.name) for field in fields(value)}
    later = {key for key in LATER if plain[key] == LATER[key]}
    return {key: plain[key] for key in plain if key not in later} | {"milestones": list(value.milestones)}
