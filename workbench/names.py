"""The grammar of model names; no torch here.

    name      = [detector "-"] [connection "-"] [conv "-"] [attention "-"] backbone
    part      = word [digits] ["[" key "=" value {"," key "=" value} "]"]
    attention = part, or a class of your own as module:Class with its options
    value     = text without , = [ ] or a nested name; lists are joined by "+"

The digits of an attention are its size (`cra7`: a 7x7 grid); those of a backbone belong to its word (`resnet50`).
`parse(str(n)) == n` for every name.  Only words are checked here; `build` checks options against the signatures.
"""

import re
from dataclasses import dataclass
from functools import cache

from workbench.errors import OutOfRange, UnknownName

DETECTORS = {
    "cascadercnn": "workbench.detection.cascade:CascadeRCNN",
    "fasterrcnn": "workbench.detection.fasterrcnn:FasterRCNN",
    "retinanet": "workbench.detection.retinanet:RetinaNet",
}
CONNECTIONS = {"dca": "workbench.attention.dca:connect"}
CONVS = {
    "aw": "workbench.attention.aw:AWConv",
    "sk": "workbench.attention.sk:SK",
}
ATTENTIONS = {
    "bam": "workbench.attention.bam:BAM",
    "bridge": "workbench.attention.bridge:Bridge",
    "cbam": "workbench.attention.cbam:CBAM",
    "cra": "workbench.attention.cra:CRA",
    "gala": "workbench.attention.gala:GALA",
    "gc": "workbench.attention.gc:GC",
    "ge": "workbench.attention.ge:GE",
    "se": "workbench.attention.se:SE",
}
BACKBONES = {
    "circularnet": "workbench.backbones.circular:circularnet",
    "densenetbc22": "workbench.backbones.densenet:densenetbc22",
    "densenetbc100": "workbench.backbones.densenet:densenetbc100",
    "mnasnet1_0": "workbench.backbones.mobilenet:mnasnet1_0",
    "mobilenetv1": "workbench.backbones.mobilenetv1:mobilenetv1",
    "mobilenetv2": "workbench.backbones.mobilenet:mobilenetv2",
    "plain6": "workbench.backbones.plain:plain6",
    **{f"resnet{depth}": f"workbench.backbones.resnet:resnet{depth}" for depth in (8, 14, 18, 20, 32, 34, 44, 50, 56)},
    **{f"resnet{depth}": f"workbench.backbones.resnet:resnet{depth}" for depth in (101, 110, 152)},
    **{f"resnet{depth}v1": f"workbench.backbones.resnet:resnet{depth}v1" for depth in (50, 101)},
    **{f"resnext{depth}": f"workbench.backbones.resnet:resnext{depth}" for depth in (11, 20, 29, 50, 101)},
    "shufflenet": "workbench.backbones.shufflenet:shufflenet",
    "shufflenet0_5": "workbench.backbones.shufflenet:shufflenet0_5",
    "vgg7": "workbench.backbones.vgg:vgg7",
    "vgg16": "workbench.backbones.vgg:vgg16",
}
SLOTS = {"detector": DETECTORS, "connection": CONNECTIONS, "conv": CONVS, "attention": ATTENTIONS}
OWN = r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*"
CONVENTIONS = ("aw", "cra", "dca", "macs")  # of counting, in explain/complexity.py


@dataclass(frozen=True)
class Part:
    """One word of a name with its size and options, the options sorted by key."""

    word: str
    size: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        keys = [key for key, _ in self.options]
        if len(set(keys)) < len(keys):
            raise OutOfRange(f"{self.word!r} gives an option twice: {', '.join(keys)}. Give each once.")
        object.__setattr__(self, "options", tuple(sorted(self.options)))

    def __str__(self) -> str:
        digits = "" if self.size is None else str(self.size)
        options = ",".join(f"{key}={value}" for key, value in self.options)
        return f"{self.word}{digits}" + (f"[{options}]" if options else "")


@dataclass(frozen=True)
class ModelName:
    """A network: a backbone, the attention in its blocks, what stands for its convolutions, what connects those, and
    the detector around it."""

    backbone: Part
    attention: Part | None = None
    connection: Part | None = None
    conv: Part | None = None
    detector: Part | None = None

    def __str__(self) -> str:
        return "-".join(str(part) for slot in (*SLOTS, "backbone") if (part := getattr(self, slot)))


@cache
def parse(name: str) -> ModelName:
    """Read a model name; raises UnknownName with suggestions, or OutOfRange for what the grammar does not allow."""
    *rest, last = _split(name, "-")
    backbone = _part(last, BACKBONES)
    if backbone is None:
        raise UnknownName("backbone", _word(last), BACKBONES)
    parts: dict[str, Part] = {}
    left = list(SLOTS)
    for text in rest:
        found = {slot: part for slot, known in SLOTS.items() if (part := _part(text, known))}
        if not found:
            raise UnknownName("attention", _word(text), [word for known in SLOTS.values() for word in known])
        slot, part = found.popitem()
        if slot not in left:
            raise OutOfRange(
                f"{name!r} has {text!r} in the wrong place; "
                "a name is [detector-][connection-][conv-][attention-]backbone, each once."
            )
        left = left[left.index(slot) + 1 :]
        parts[slot] = part
    if "connection" in parts and not {"conv", "attention"} & set(parts):
        example = f"{parts['connection'].word}-se-{backbone}"
        raise OutOfRange(f"{name!r} has nothing to connect; name an attention too, for example {example}.")
    return ModelName(backbone, **parts)


def whole_number(what: str, text: str) -> int:
    """`text` as a number of at most four digits; raises OutOfRange."""
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise OutOfRange(f"{what}: {text[:20]!r} must be a whole number from 0 to 9999.")
    return int(text)


def number(what: str, text: str) -> float:
    """`text` as a plain decimal number; raises OutOfRange."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,8})?", text):
        raise OutOfRange(f"{what}: {text[:20]!r} must be a number such as 0.5.")
    return float(text)


def split_list(value: str) -> list[str]:
    """The items of an option's list: "channel+spatial" -> ["channel", "spatial"]."""
    return value.split("+")


def _word(text: str) -> str:
    return text.split("[", 1)[0]


def _part(text: str, known: dict[str, str]) -> Part | None:
    """`text` as a part of this kind, or None when its word is not one of `known`."""
    match = re.fullmatch(rf"([a-z][a-z0-9_]*|{OWN})(?:\[(.*)\])?", text)
    if match is None:
        raise OutOfRange(f"{text!r} is not word[key=value,...]; for example se[reduction=8].")
    word, options = match.group(1), match.group(2)
    size = None
    if ":" in word:
        if known is not ATTENTIONS:
            return None
    elif word not in known:
        stem = word.rstrip("0123456789")
        if known is BACKBONES or stem not in known:
            return None
        word, size = stem, whole_number(f"size of {stem}", word[len(stem) :])
    return Part(word, size, tuple(_option(word, item) for item in _split(options, ",")) if options is not None else ())


def _option(word: str, item: str) -> tuple[str, str]:
    match = re.fullmatch(r"([a-z][a-z0-9_]*)=([^\[\],=]+|[^=]+\[.*\].*)", item)
    if match is None:
        raise OutOfRange(f"Option {item!r} of {word!r} is not key=value; for example {word}[key=value].")
    return match.group(1), match.group(2)


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if depth < 0:
            break
        if letter == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth != 0:
        raise OutOfRange(f"The brackets of {text!r} do not match; options stand in one pair, as in cra7[small=repeat].")
    return parts
