"""The grammar of model names; no torch here.

    name      = [connection "-"] [attention "-"] backbone
    part      = word [digits] ["[" key "=" value {"," key "=" value} "]"]
    value     = text without , = [ ] or a nested name; lists are joined by "+"

The digits of an attention are its size (`cra7`: a 7x7 grid); those of a backbone belong to its word (`resnet50`).
`parse(str(n)) == n` for every name.  Only words are checked here; `build` checks options against the signatures.
"""

import re
from dataclasses import dataclass
from functools import cache

from workbench.errors import OutOfRange, UnknownName

CONNECTIONS = {"dca": "workbench.attention.dca:connect"}
ATTENTIONS = {
    "cbam": "workbench.attention.cbam:CBAM",
    "cra": "workbench.attention.cra:CRA",
    "se": "workbench.attention.se:SE",
}
BACKBONES = {
    "circularnet": "workbench.backbones.circular:circularnet",
    "resnet18": "workbench.backbones.resnet:resnet18",
    "resnet20": "workbench.backbones.resnet:resnet20",
    "resnet32": "workbench.backbones.resnet:resnet32",
    "resnet34": "workbench.backbones.resnet:resnet34",
    "resnet44": "workbench.backbones.resnet:resnet44",
    "resnet50": "workbench.backbones.resnet:resnet50",
    "resnet56": "workbench.backbones.resnet:resnet56",
    "resnet101": "workbench.backbones.resnet:resnet101",
    "resnet110": "workbench.backbones.resnet:resnet110",
    "resnet152": "workbench.backbones.resnet:resnet152",
}
CONVENTIONS = ("cra", "dca", "macs")  # of counting, in explain/complexity.py


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
    """A network: a backbone, the attention in its blocks, and the connection between those."""

    backbone: Part
    attention: Part | None = None
    connection: Part | None = None

    def __str__(self) -> str:
        return "-".join(str(part) for part in (self.connection, self.attention, self.backbone) if part)


@cache
def parse(name: str) -> ModelName:
    """Read a model name; raises UnknownName with suggestions, or OutOfRange for what the grammar does not allow."""
    *rest, last = _split(name, "-")
    backbone = _part(last, BACKBONES)
    if backbone is None:
        raise UnknownName("backbone", _word(last), BACKBONES)
    connection = attention = None
    for text in rest:
        if (part := _part(text, CONNECTIONS)) and connection is None and attention is None:
            connection = part
        elif (part := _part(text, ATTENTIONS)) and attention is None:
            attention = part
        elif part or _part(text, CONNECTIONS):
            raise OutOfRange(
                f"{name!r} has {text!r} in the wrong place; a name is [connection-][attention-]backbone, each once."
            )
        else:
            raise UnknownName("attention", _word(text), [*ATTENTIONS, *CONNECTIONS])
    if connection and attention is None:
        raise OutOfRange(
            f"{name!r} has nothing to connect; name an attention too, for example {connection.word}-se-{backbone}."
        )
    return ModelName(backbone, attention, connection)


def whole_number(what: str, text: str) -> int:
    """`text` as a number of at most four digits; raises OutOfRange."""
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise OutOfRange(f"{what}: {text[:20]!r} must be a whole number from 0 to 9999.")
    return int(text)


def split_list(value: str) -> list[str]:
    """The items of an option's list: "channel+spatial" -> ["channel", "spatial"]."""
    return value.split("+")


def _word(text: str) -> str:
    return text.split("[", 1)[0]


def _part(text: str, known: dict[str, str]) -> Part | None:
    """`text` as a part of this kind, or None when its word is not one of `known`."""
    match = re.fullmatch(r"([a-z][a-z0-9_]*)(?:\[(.*)\])?", text)
    if match is None:
        raise OutOfRange(f"{text!r} is not word[key=value,...]; for example se[reduction=8].")
    word, options = match.group(1), match.group(2)
    size = None
    if word not in known:
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
