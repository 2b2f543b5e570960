"""Name -> network: the only place where attention and backbones meet.

The signature of a class is the schema of its options: `se[reduction=8]` is `SE(site, reduction=8)`.  A class of your
own is a name too: `my_module:MyAttention-resnet20`, imported like any module; its source is part of the run key.
"""

import hashlib
import importlib
import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, get_origin, get_type_hints

import torch
from torch import nn

from workbench.backbones import Network
from workbench.errors import OutOfRange, UnknownName
from workbench.names import BACKBONES, SLOTS, ModelName, Part, number, parse, split_list, whole_number

SOCKETS = ("attention", "conv", "stage", "head")
GIVEN = {"self", "site", "spec", "network", "classes", *SOCKETS}  # by the backbone, never by a name
KNOWN = SLOTS | {"backbone": BACKBONES}


def build(name: str | ModelName, classes: int = 1000, image_size: int | None = None) -> Network:
    """The network of this name with fresh weights from torch's current seed.

    image_size: the picture side in pixels to check grids against; the backbone's own (224, 32 or 16) by default.
    Raises UnknownName or OutOfRange with what is allowed.
    """
    model = parse(str(name))
    if classes < 1:
        raise OutOfRange(f"{classes} classes; a network needs at least 1.")
    if image_size is not None and image_size < 1:
        raise OutOfRange(f"Image size {image_size} px; it must be at least 1.")
    if model.detector:
        raise OutOfRange(
            f"{model.detector} is a detector; detectors are not built yet, their backbones are: {model.backbone}."
        )
    if model.attention or model.conv:
        _fits(str(model), classes, image_size)
    return _build(model, classes)


def canonical(name: str | ModelName) -> ModelName:
    """The same network under its shortest name: default options dropped, the size always written."""
    model = parse(str(name))

    def short(part: Part, known: dict[str, str]) -> Part:
        values, schema = _options(part, known), _schema(_target(part, known))
        kept = {key: value for key, value in values.items() if key != "size" and value != schema[key].default}
        return Part(part.word, values.get("size"), tuple((key, _text(value)) for key, value in kept.items()))

    return ModelName(**{slot: short(part, KNOWN[slot]) for slot, part in _parts(model).items()})


def resolved(name: str | ModelName) -> dict[str, Any]:
    """Every option that makes this network, defaults written out; what an experiment's key hashes."""
    found = {}
    for slot, part in _parts(parse(str(name))).items():
        values = {key: _text(value) for key, value in _options(part, KNOWN[slot]).items()}
        found[slot] = {"word": part.word, **values, **({"source": _source(part)} if ":" in part.word else {})}
    return found


def _parts(model: ModelName) -> dict[str, Part]:
    return {slot: part for slot in ("backbone", *SLOTS) if slot != "detector" and (part := getattr(model, slot))}


def _build(model: ModelName, classes: int) -> Network:
    backbone = _target(model.backbone, BACKBONES)
    sockets: dict[str, Any] = {}
    for slot in ("conv", "attention"):
        if part := getattr(model, slot):
            options = _options(part, SLOTS[slot])
            target: Any = _target(part, SLOTS[slot])
            socket = target.socket(**options) if callable(target.socket) else target.socket
            if socket not in inspect.signature(backbone).parameters or socket in sockets:
                raise OutOfRange(
                    f"{model}: {part} needs a free {socket!r} socket, and {model.backbone} has "
                    f"{', '.join(repr(s) for s in _sockets(backbone) if s not in sockets) or 'none'}. "
                    "`workbench show` tells where a module sits."
                )
            sockets[socket] = partial(target, **options)
    network = backbone(classes=classes, **sockets, **_options(model.backbone, BACKBONES))
    if part := model.connection:
        network = _target(part, SLOTS["connection"])(network, **_options(part, SLOTS["connection"]))
    return network


def _sockets(backbone: Callable[..., Any]) -> list[str]:
    return [key for key in inspect.signature(backbone).parameters if key in SOCKETS]


@cache
def _fits(name: str, classes: int, image_size: int | None) -> None:
    """One forward without memory or arithmetic: grids and map sizes are checked where they meet."""
    with torch.device("meta"), torch.no_grad():
        network = _build(parse(name), classes).eval()
        side = image_size or network.image_size
        network(torch.empty(1, 3, side, side))


def _target(part: Part, known: dict[str, str]) -> Callable[..., Any]:
    if ":" in part.word:
        return _own(part.word)
    module, attribute = known[part.word].split(":")
    return getattr(importlib.import_module(module), attribute)


def _own(word: str) -> type[nn.Module]:
    """The user's class `module:Class`; raises UnknownName or OutOfRange."""
    module, attribute = word.split(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise OutOfRange(
            f"{word!r}: no module {error.name!r} here. Run from its folder, or put that folder on PYTHONPATH."
        ) from error
    except AttributeError:
        names = [key for key, value in vars(importlib.import_module(module)).items() if inspect.isclass(value)]
        raise UnknownName(f"class in {module!r}:", attribute, names or ["(it has none)"]) from None
    if not (inspect.isclass(found) and issubclass(found, nn.Module) and hasattr(found, "socket")):
        raise OutOfRange(
            f"{word!r} is not an attention block; make it a subclass of workbench.attention.Attention "
            "with a constructor (self, site, ...) that sets extract and transform."
        )
    return found


def _source(part: Part) -> str:
    """A short hash of the file that a user's class stands in."""
    try:
        text = inspect.getsource(importlib.import_module(part.word.split(":")[0]))
    except (OSError, TypeError) as error:
        raise OutOfRange(f"The source of {part.word!r} cannot be read; put the class into a file.") from error
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _schema(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {key: p for key, p in inspect.signature(target).parameters.items() if key not in GIVEN}


def _options(part: Part, known: dict[str, str]) -> dict[str, Any]:
    """The options of `part` as typed values, defaults included."""
    target = _target(part, known)
    schema = _schema(target)
    function = target.__init__ if inspect.isclass(target) else getattr(target, "func", target)
    hints = get_type_hints(function)
    given: dict[str, str] = dict(part.options)
    if part.size is not None:
        if "size" not in schema:
            raise OutOfRange(f"{part} has a size, but {part.word!r} takes none; write {part.word!r}.")
        if "size" in given:
            raise OutOfRange(f"{part} gives its size twice; write {part.word}{part.size}.")
        given["size"] = str(part.size)
    for key in given:
        if key not in schema:
            raise UnknownName(f"option of {part.word!r}:", key, schema or ["(it takes none)"])
    return {
        key: _value(part.word, key, given[key], hints.get(key, str)) if key in given else parameter.default
        for key, parameter in schema.items()
    }


def _value(word: str, key: str, text: str, kind: Any) -> Any:
    if kind is int:
        return whole_number(f"{word} option {key}", text)
    if kind is float:
        return number(f"{word} option {key}", text)
    if kind is bool:
        if text not in ("true", "false"):
            raise OutOfRange(f"{word} option {key}={text}: use true or false.")
        return text == "true"
    return tuple(sorted(set(split_list(text)))) if get_origin(kind) is tuple else text


def _text(value: Any) -> str:
    return (
        str(value).lower() if isinstance(value, bool) else "+".join(value) if isinstance(value, tuple) else str(value)
    )
