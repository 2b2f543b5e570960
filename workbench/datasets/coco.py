"""COCO 2017 (Lin et al., 2014): photographs with boxes of 80 classes, for detectors.

    coco/{train2017,val2017}/*.jpg      coco/annotations/instances_{train2017,val2017}.json

In training, pictures without boxes are left out; all 5,000 of validation stay, as the evaluation counts them.
"""

import os
from pathlib import Path

from workbench import files
from workbench.datasets import CLASSES, PLACES, folders
from workbench.datasets.boxes import DetectionSplit, split
from workbench.errors import Corrupt, DataMissing, OutOfRange

PARTS = ("train2017", "val2017")
COUNTS = {"train2017": 118_287, "val2017": 5_000}  # pictures that each part lists, as published
ARCHIVES = {  # what each folder comes from below SOURCE, and its MD5
    "train2017": ("zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017": ("zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
    "annotations": ("annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
}
SOURCE = "http://images.cocodataset.org"  # as COCO links to it; what came is told by its MD5
VERSION = "-".join(md5 for _, md5 in ARCHIVES.values())


def load(root: Path) -> tuple[DetectionSplit, DetectionSplit]:
    """COCO 2017 whole, for training and validation; raises DataMissing or Corrupt."""
    folder = root.expanduser() / PLACES["coco2017"]
    if missing := [part for part in ARCHIVES if not (folder / part).is_dir()]:
        raise DataMissing(
            f"coco2017 is not in {root} (expected {folder} with {' and '.join(missing)}, 20 GB). "
            "Fetch it with `workbench data fetch coco2017`, or point --data-dir or WORKBENCH_DATA at its parent folder."
        )
    again = f"Delete what is damaged of {folder}/{{{','.join(ARCHIVES)}}} and run `workbench data fetch coco2017`."
    train, val = _splits(folder, again)
    for part, found in zip(PARTS, (train, val), strict=True):
        count = len(found) + found.skipped["empty_pictures"]
        if (count, len(found.classes)) != (COUNTS[part], CLASSES["coco2017"]):
            raise Corrupt(
                f"{found.annotations} lists {count:,} pictures and {len(found.classes)} classes, "
                f"COCO 2017 {COUNTS[part]:,} and {CLASSES['coco2017']}. {again}"
            )
    return train, val


def read(folder: Path) -> tuple[DetectionSplit, DetectionSplit]:
    """Other photographs that lie as COCO does, however many; raises DataMissing, OutOfRange or Corrupt."""
    return _splits(folder, f"{folder} needs {', '.join(PARTS)} and annotations, as COCO has them; mend it.")


def version(folder: Path) -> str:
    """What identifies the boxes of other photographs: sha256 of both files of annotations."""
    return "-".join(files.sha256(_annotations(folder, part).read_bytes()) for part in PARTS)


def fetch(root: Path) -> None:
    """Download and unpack what is not there; raises Corrupt if an archive is another, or URLError without a network."""
    from torchvision.datasets.utils import download_and_extract_archive

    folder = root.expanduser() / PLACES["coco2017"]
    for part, (path, md5) in ARCHIVES.items():
        if (folder / part).is_dir():
            continue
        try:
            download_and_extract_archive(f"{SOURCE}/{path}", folder, md5=md5, remove_finished=True)
        except RuntimeError as error:  # what torchvision says of an archive that fails its check
            raise Corrupt(f"{SOURCE}/{path} came damaged ({error}); fetch coco2017 again.") from error


def verify(root: Path) -> None:
    """Decode every photograph; raises Corrupt, naming the first that cannot be."""
    for part in load(root):
        if faults := folders.damaged(part.root, [os.fsdecode(path) for path in part.files]):
            raise Corrupt(
                f"{len(faults):,} of {len(part):,} pictures in {part.root} cannot be decoded: "
                f"{' '.join([*faults.values()][:3])} {part.remedy}"
            )


def _splits(folder: Path, remedy: str) -> tuple[DetectionSplit, DetectionSplit]:
    train, val = (split(folder / part, _annotations(folder, part), part == PARTS[0], remedy) for part in PARTS)
    if (train.classes, train.categories) != (val.classes, val.categories):
        raise OutOfRange(f"{train.annotations} and {val.annotations.name} have other categories. {remedy}")
    return train, val


def _annotations(folder: Path, part: str) -> Path:
    return folder / "annotations" / f"instances_{part}.json"
