"""RetinaNet (Lin et al., ICCV 2017), torchvision's: one dense head on every level of a feature pyramid.

    anchors: 3 sizes 2^(0, 1/3, 2/3) x `anchor` strides and 3 shapes at every position of every level
    losses: focal loss, alpha 0.25 and gamma 2, of all anchors but those whose IoU is from 0.4 to below 0.5, which are
        left out, and L1 of the boxes of those that match

In words: a pyramid from stride 8 on, two levels more, P6 and P7 -> four 3x3 convolutions and one score a class and
anchor, four others and a box -> the best of each class that do not overlap.  Logit k is label k; no background.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from workbench.backbones import Network
from workbench.detection.detector import Detector, at_least, resizing, side
from workbench.detection.fpn import Pyramid, precise
from workbench.errors import OutOfRange

SHAPES = (0.5, 1.0, 2.0)  # height / width of the anchors
GROUPS = 32  # of a GroupNorm


class RetinaNet(Detector, detection.RetinaNet):
    """image_size: px of the shorter side; 0: 800, or 3 times the side of a backbone for small pictures.

    fpn: attention and convolutions of the pyramid, such as aw-se.  width: channels of pyramid and head; 0: 256, or
    those of a narrower last map.  finest: stride of the first level in px; 0: 8, or the coarsest two maps of a backbone
    that has finer ones alone.  anchor: strides in the side of a level's smallest anchor.
    norm: group puts a GroupNorm after every 3x3 convolution of the head, as torchvision's version 2 of it; without, its
    four layers begin near zero, and a narrow head has learned nothing after some hundred steps.
    """

    head: Any
    anchor_generator: Any
    compute_loss: Any
    postprocess_detections: Any

    def __init__(
        self,
        network: Network,
        classes: int,
        image_size: int = 0,
        fpn: str = "",
        width: int = 0,
        finest: int = 0,
        anchor: int = 4,
        norm: str = "none",
    ):
        at_least("retinanet", anchor=anchor)
        shorter = side(image_size, network)
        pyramid = Pyramid(network, fpn, width, finest, 8, lambda wide: LastLevelP6P7(wide, wide), 2)
        sizes = tuple(tuple(int(anchor * s * 2 ** (k / 3)) for k in range(3)) for s in pyramid.strides)
        anchors = AnchorGenerator(sizes, (SHAPES,) * len(sizes))
        wide, count = pyramid.out_channels, anchors.num_anchors_per_location()[0]
        head = RetinaNetHead(wide, count, classes, norm_layer=normed(norm, wide))
        detection.RetinaNet.__init__(self, pyramid, classes, anchor_generator=anchors, head=head)
        self.transform, self.image_size = resizing(shorter), shorter

    def outputs(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"cls_logits": (N, anchors, classes), "bbox_regression": (N, anchors, 4)}, all levels in one row."""
        return {name: precise(y) for name, y in self.head(list(maps.values())).items()}

    def learn(self, images: ImageList, maps: dict[str, Tensor], known: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return self.compute_loss(known, self.outputs(maps), self.anchor_generator(images, list(maps.values())))

    def find(self, images: ImageList, maps: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        levels = list(maps.values())
        (count,) = set(self.anchor_generator.num_anchors_per_location())
        sizes = [y.shape[2] * y.shape[3] * count for y in levels]
        anchors = [list(one.split(sizes)) for one in self.anchor_generator(images, levels)]
        outputs = {name: list(y.split(sizes, 1)) for name, y in self.outputs(maps).items()}
        return self.postprocess_detections(outputs, anchors, images.image_sizes)


def normed(norm: str, width: int) -> Callable[[int], nn.Module] | None:
    """What normalises `width` channels in the head, by the name of the option."""
    if norm not in ("none", "group") or (norm == "group" and width % GROUPS):
        raise OutOfRange(
            f"retinanet option norm={norm} of {width} channels; use none, or group where {GROUPS} divides."
        )
    return partial(nn.GroupNorm, GROUPS) if norm == "group" else None
