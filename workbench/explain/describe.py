"""What a module or a network is, in words: equations, place, options, cost."""

import importlib
import inspect
import re

import torch

from workbench import names
from workbench.build import GIVEN, build, canonical
from workbench.errors import UnknownName
from workbench.explain.complexity import CONVENTIONS, count

MODULES = {word: path for known in names.SLOTS.values() for word, path in known.items() if path}
PLACES = {
    "attention": "at the end of every block's branch, before the shortcut is added",
    "conv": "in place of a block's spatial convolution (in MobileNetV1 of the 1x1)",
    "stage": "after every stage but the last",
    "bridge": "as a gate at the end of every block's branch; direct, in place of the last global mean",
    "detector": "around a backbone, whose classifier it drops: a pyramid on its maps, and heads on the pyramid's",
    "connection": "between the attention blocks of one dimension, from each to those that hear it",
}


def describe(name: str) -> str:
    """The description of a module's word, of a network's name, or of a class of one's own; raises UnknownName."""
    if name in MODULES:
        return module(name)
    if re.fullmatch(r"[a-z0-9_]+", name) and name not in names.BACKBONES:
        raise UnknownName("module or network", name, [*MODULES, *names.BACKBONES])
    return network(name)


def module(word: str) -> str:
    """Its equations, parameters and source, its options, and where it stands."""
    path, attribute = MODULES[word].split(":")
    found = importlib.import_module(path)
    target = getattr(found, attribute)
    options = {key: one.default for key, one in inspect.signature(target).parameters.items() if key not in GIVEN}
    place = getattr(target, "socket", "connection")
    return "\n".join(
        [
            inspect.cleandoc(found.__doc__ or ""),
            "",
            inspect.cleandoc(target.__doc__ or ""),
            "",
            "options, with their defaults",
            *(f"  {word}[{key}={_text(value)}]" for key, value in options.items()),
            "",
            f"place: {PLACES[place if isinstance(place, str) else word]}",
        ]
    )


def network(name: str) -> str:
    """Its attention modules with their sites, and its cost in every counting convention."""
    with torch.device("meta"):
        built = build(name)
    blocks = list(built.attentions())
    lines = [str(canonical(name))]
    for kind in dict.fromkeys(type(block) for block in blocks):
        lines += ["", inspect.cleandoc(inspect.getmodule(kind).__doc__ or "")]
        lines += ["", f"in blocks {' '.join(str(block.site) for block in blocks if type(block) is kind)}"]
    cost = count(name)
    lines += ["", f"parameters    {cost.params:,} (1000 classes)"]
    for convention in CONVENTIONS:
        macs = count(name, convention=convention).macs
        lines.append(f"multiply-adds {macs:,} ({cost.image_size} px, {convention} convention)")
    return "\n".join(lines)


def _text(default: object) -> str:
    return "+".join(default) or "all" if isinstance(default, tuple) else str(default).lower()
