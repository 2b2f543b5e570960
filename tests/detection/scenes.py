"""Detectors in float64 with weights that find something, and small pictures with boxes for them."""

import torch
from PIL import Image

from workbench import files
from workbench.datasets import coco, shapes
from workbench.datasets.boxes import Boxes

SIZES = ((64, 96), (80, 64))  # height, width


def lively(detector, seed=0):
    """The detector in float64, filled from `seed`: every layer does something and some scores are high."""
    generator = torch.Generator().manual_seed(seed)
    detector.double()
    for key, value in detector.state_dict().items():
        if value.dim() > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif value.is_floating_point():
            low, high = (-0.5, 0.5) if key.endswith(("mean", "bias")) else (0.2, 0.5)
            value.uniform_(low, high, generator=generator)
    return detector


def pictures(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator, dtype=dtype) for size in SIZES]


def boxes(corners, labels, crowd=None):
    found = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    crowds = torch.tensor(crowd or [False] * len(labels), dtype=torch.bool)
    areas = (found[:, 2:] - found[:, :2]).prod(1)
    return Boxes(found, torch.tensor(labels, dtype=torch.int64), areas, crowds)


def targets():
    """Labels from 0 to 2; two boxes in the first picture, one in the second."""
    return [boxes([[4, 6, 40, 44], [30, 10, 90, 60]], [2, 0]), boxes([[8, 20, 50, 70]], [1])]


def theirs(known, first):
    """The same as torchvision's detectors take them, the classes from `first` on."""
    return [{"boxes": one.corners, "labels": one.labels + first} for one in known]


def photographs(folder, train=24, test=8):
    """`shapes` in files that lie as COCO's do; the name of that data set."""
    names = [{"id": label + 1, "name": name} for label, name in enumerate(shapes.CLASSES)]
    for part, count in zip(coco.PARTS, (train, test), strict=True):
        listed, found = [], []
        for place in (folder / part, folder / "annotations"):
            place.mkdir(parents=True, exist_ok=True)
        for item in shapes.make(count, seed=count):
            name, (height, width) = f"{item.image_id:012}.png", item.picture.shape[:2]
            Image.fromarray(item.picture.numpy()).save(folder / part / name)
            listed.append({"id": item.image_id, "file_name": name, "width": width, "height": height})
            columns = item.boxes.tolist(), item.labels.tolist(), item.areas.tolist()
            for (left, top, right, bottom), label, area in zip(*columns, strict=True):
                box = {"bbox": [left, top, right - left, bottom - top], "area": area, "iscrowd": 0}
                found.append({"id": len(found) + 1, "image_id": item.image_id, "category_id": label + 1, **box})
        content = {"images": listed, "annotations": found, "categories": names}
        files.write_json(folder / "annotations" / f"instances_{part}.json", content)
    return f"coco:{folder}"
