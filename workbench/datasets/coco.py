"""COCO 2017 (Lin et al., 2014): photographs with boxes of 80 classes, for detectors.

    coco/{train2017,val2017}/*.jpg      coco/annotations/instances_{train2017,val2017}.json

In training, pictures without boxes are left out; all 5,000 of validation stay, as the evaluation counts them.
coco-mini is 604 photographs of it, 318 to train on, 286 to test, their longer side at most 320 px, in coco_mini_320.
"""

import os
import shutil
from collections.abc import Collection
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
MINI = "-".join(  # what `version` says of coco-mini
    (
        "7442e22a359f1fbc8dec3869c6f59948deeb50412db93c6bd6a018bf11e5f846",
        "91ed95ca28d87ff5f78953ce126105753336b8d2e1b358571020f15fde003515",
    )
)


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


def load_mini(root: Path) -> tuple[DetectionSplit, DetectionSplit]:
    """coco-mini; raises DataMissing or Corrupt."""
    folder = root.expanduser() / PLACES["coco-mini"]
    another = "Cut a set of your own from COCO 2017 by `workbench.datasets.coco.cut`, and name it coco:PATH."
    if missing := [part for part in (*PARTS, "annotations") if not (folder / part).is_dir()]:
        raise DataMissing(
            f"coco-mini is not in {root} (expected {folder} with {' and '.join(missing)}, 16 MB). Its photographs are "
            f"not ours to pass on: copy the folder from where it is, or do without it. {another}"
        )
    if version(folder) != MINI:
        raise Corrupt(f"{folder}/annotations has other boxes than coco-mini, by their sha256. {another}")
    return read(folder)


def read(folder: Path) -> tuple[DetectionSplit, DetectionSplit]:
    """Other photographs that lie as COCO does, however many; raises DataMissing, OutOfRange or Corrupt."""
    return _splits(folder, f"{folder} needs {', '.join(PARTS)} and annotations, as COCO has them; mend it.")


def version(folder: Path) -> str:
    """What identifies the boxes of other photographs: sha256 of both files of annotations.  Raises DataMissing."""
    try:
        return "-".join(files.sha256(_annotations(folder, part).read_bytes()) for part in PARTS)
    except OSError as error:
        raise DataMissing(
            f"{error.filename} cannot be read ({error.strerror}). {folder} needs {', '.join(PARTS)} and annotations, "
            "as COCO has them."
        ) from error


def cut(folder: Path, to: Path, ids: Collection[int]) -> None:
    """Copy the photographs with these of COCO's numbers, and their boxes, to a folder of the same layout.

    Both parts need some; `coco:TO` is then the name of a data set.  Raises OutOfRange, or as `read` does.
    """
    for part, whole in zip(PARTS, read(folder), strict=True):
        listed = files.read_json(whole.annotations)
        pictures = [picture for picture in listed["images"] if picture["id"] in ids]
        if not pictures:
            raise OutOfRange(f"None of the {len(ids):,} pictures that are asked for is in {whole.root}; add some.")
        kept = {picture["id"] for picture in pictures}
        boxes = [box for box in listed["annotations"] if box["image_id"] in kept]
        for place in (to / part, to / "annotations"):
            place.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            shutil.copyfile(files.child(whole.root, picture["file_name"]), files.child(to / part, picture["file_name"]))
        files.write_json(_annotations(to, part), listed | {"images": pictures, "annotations": boxes})


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


def verify(*parts: DetectionSplit) -> None:
    """Decode every photograph; raises Corrupt, naming the first that cannot be."""
    for part in parts:
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
