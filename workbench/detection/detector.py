"""What every detector is: a backbone with a feature pyramid, heads on its maps, and a Trail through all its blocks.

pictures -> resized and put into one batch -> the backbone's maps -> the pyramid's -> heads -> losses, or boxes

Built from torchvision's parts and named as torchvision's detectors, `backbone.body` and `backbone.fpn` before all, so
that its weights load and it is the oracle.  Labels are the data set's, from 0 on, wherever a caller sees them; in the
heads of the two R-CNNs, as in torchvision, class 0 is the background and label k is class k + 1.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from workbench.attention import Attention, Trail, attentions
from workbench.backbones import Network
from workbench.datasets.boxes import Boxes
from workbench.detection.fpn import Pyramid, ghost
from workbench.errors import OutOfRange, UnknownName

LONGER = (1333, 800)  # the longer side of a picture is at most 1333 / 800 of what the shorter one is resized to
SLIMMEST = 6  # a picture whose sides differ more is padded, so that a panorama does not end in maps below every grid
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as the backbones that are trained there


class Detections(NamedTuple):
    """What is found in one picture, best score first.

    boxes: (n, 4) float32, left, top, right, bottom in px of the picture that was given; labels: (n,) int64 from 0 on;
    scores: (n,) float32, from 0 to 1.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class Detector(nn.Module, ABC):
    """Subclasses define `learn`, `find` and `outputs`, and set what is below.

    image_size: what the shorter side of a picture is resized to, in px; background: classes of the heads before the
    first of the data set.
    """

    socket: ClassVar[str] = "detector"
    background: ClassVar[int] = 0
    image_size: int
    backbone: Pyramid
    transform: GeneralizedRCNNTransform

    @property
    def network(self) -> Network:
        """The backbone, which has lost its classifier: its `maps` run, itself does not."""
        return self.backbone.body

    def attentions(self) -> Iterator[Attention]:
        """The blocks of the backbone, then those of the pyramid, in the order of the forward pass."""
        return attentions(self)

    def forward(self, pictures: list[Tensor], targets: list[Boxes] | None = None) -> Any:
        """The losses where boxes are given, else what is found."""
        return self.detect(pictures) if targets is None else self.losses(pictures, targets)

    def losses(self, pictures: list[Tensor], targets: list[Boxes]) -> dict[str, Tensor]:
        """Scalars, to be summed; pictures are (3, H, W) in [0, 1] of any sizes.  Boxes of crowds are left out."""
        if not self.training:
            raise OutOfRange("A detector has losses in training mode alone; call train() first.")
        known = [
            {"boxes": one.corners[~one.crowd], "labels": one.labels[~one.crowd] + self.background} for one in targets
        ]
        images, resized = self.resize(pictures, known)
        return self.learn(images, self.maps(images.tensors, Trail()), resized)

    @torch.no_grad()
    def detect(self, pictures: list[Tensor]) -> list[Detections]:
        """What is found in each of the pictures, (3, H, W) in [0, 1] of any sizes."""
        return self._look(pictures, Trail())

    def trace(self, pictures: list[Tensor]) -> tuple[list[Detections], Trail]:
        """The same with gradients, and what every attention block did on the way."""
        trail = Trail(records=True)
        return self._look(pictures, trail), trail

    def _look(self, pictures: list[Tensor], trail: Trail) -> list[Detections]:
        if self.training:
            raise OutOfRange("A detector finds boxes in evaluation mode alone; call eval() first.")
        images, _ = self.resize(pictures, None)
        found = self.find(images, self.maps(images.tensors, trail))
        found = self.transform.postprocess(found, images.image_sizes, [x.shape[-2:] for x in pictures])
        return [Detections(x["boxes"].float(), x["labels"] - self.background, x["scores"].float()) for x in found]

    def maps(self, x: Tensor, trail: Trail) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised -> the maps of the pyramid, finest first, by torchvision's names."""
        return self.backbone(x, trail)

    def resize(self, pictures: list[Tensor], known: Any) -> tuple[ImageList, Any]:
        """The pictures normalised, resized and padded to one batch with sides that 32 divides, and their boxes.

        Raises OutOfRange for a strip of which nothing would be left.
        """
        for height, width in (picture.shape[-2:] for picture in pictures):
            if min(height, width) * self.transform.max_size < max(height, width):
                raise OutOfRange(
                    f"A picture of {width} x {height} px has no pixel across once its longer side is resized to "
                    f"{self.transform.max_size}; cut a piece out of it."
                )
        images, resized = self.transform(pictures, known)
        height, width = images.tensors.shape[-2:]
        least = self.least if min(height, width) < self.image_size else 0
        images.tensors = F.pad(images.tensors, (0, max(least - width, 0), 0, max(least - height, 0)))
        return images, resized

    @cached_property
    def least(self) -> int:
        """The shortest side of a batch in px: 1 / SLIMMEST of the longest, or what the grids need, if that is more.

        Found on the meta device, once there is a picture that may need it.
        """
        body, step = ghost(self.backbone), self.transform.size_divisible

        def fits(side: int) -> bool:
            try:
                body(torch.empty(1, 3, side, side, device="meta"), Trail())
            except OutOfRange:
                return False
            return True

        sides = range(-(-self.transform.max_size // SLIMMEST // step) * step, self.image_size + step, step)
        with torch.no_grad():
            return sides[bisect_left(sides[:-1], True, key=fits)]

    @abstractmethod
    def learn(self, images: ImageList, maps: dict[str, Tensor], known: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Losses by name; known: {"boxes", "labels"} of each picture, in px of the batch and classes of the heads."""

    @abstractmethod
    def find(self, images: ImageList, maps: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """{"boxes", "labels", "scores"} of each picture, in px of the batch and classes of the heads."""

    def layers(self, x: Tensor) -> None:
        """(N, 3, H, W): run every layer as often as `detect` does, also on the meta device; for counting."""
        self.outputs(self.maps(x, Trail(records=True)))

    @abstractmethod
    def outputs(self, maps: dict[str, Tensor]) -> Any:
        """What the layers of the heads compute, also on the meta device, where no region can be chosen."""

    def freeze(self, *parts: str, norms: bool = True) -> None:
        """Train no parameter of these parts of the backbone, for example "conv1", and use all its BN as constants.

        norms: the running statistics, scales and shifts of every BN in the backbone stay as they are, also in training
        mode, as torchvision's FrozenBatchNorm2d, but under the same names in the state.
        """
        children = dict(self.network.named_children())
        for part in parts:
            if part not in children:
                raise UnknownName("part of the backbone", part, children)
            children[part].requires_grad_(False)
        self.frozen = [one for one in self.network.modules() if isinstance(one, _BatchNorm)] if norms else []
        for one in self.frozen:
            one.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Detector":
        super().train(mode)
        for one in getattr(self, "frozen", ()):
            one.eval()
        return self


def resizing(image_size: int) -> GeneralizedRCNNTransform:
    """The shorter side to `image_size` px, the longer to 1333 / 800 of it at most; ImageNet's colours."""
    longest, shorter = LONGER
    return GeneralizedRCNNTransform(image_size, image_size * longest // shorter, MEAN, STD)


def side(image_size: int, network: Network) -> int:
    """`image_size`, or for 0 the backbone's own: 800 px if it is made for 224 px or more, else three times its side."""
    return image_size or (800 if network.image_size >= 224 else 3 * network.image_size)


def at_least(name: str, **options: int) -> None:
    """Raises OutOfRange for an option below 1."""
    for key, value in options.items():
        if value < 1:
            raise OutOfRange(f"{name} option {key}={value}; it must be at least 1.")
