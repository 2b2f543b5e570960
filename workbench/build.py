"""Name -> network: the only place where attention and backbones meet.

The signature of a class is the schema of its options: `se[reduction=8]` is `SE(site, reduction=8)`.
"""

import importlib
import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, get_origin, get_type_hints

import torch

from workbench.backbones import Network
from workbench.errors import OutOfRange, UnknownName
from workbench.names import ATTENTIONS, BACKBONES, CONNECTIONS, ModelName, Part, parse, split_list, whole_number

SOCKETS = {"self", "site", "network", "classes", "attention", "conv"}


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
    if model.attention:
        _fits(str(model), classes, image_size)
    return _build(model, classes)


def canonical(name: str | ModelName) -> ModelName:
    """The same network under its shortest name: default options dropped, the size always written."""
    model = parse(str(name))

    def short(part: Part | None, known: dict[str, str]) -> Part | None:
        if part is None:
            return None
        values, schema = _options(part, known), _schema(_target(part, known))
        kept = {key: value for key, value in values.items() if key != "size" and value != schema[key].default}
        return Part(part.word, values.get("size"), tuple((key, _text(value)) for key, value in kept.items()))

    backbone = short(model.backbone, BACKBONES)
    assert backbone is not None
    return ModelName(backbone, short(model.attention, ATTENTIONS), short(model.connection, CONNECTIONS))


def resolved(name: str | ModelName) -> dict[str, Any]:
    """Every option that makes this network, defaults written out; what an experiment's key hashes."""
    model = parse(str(name))
    parts = (("backbone", BACKBONES), ("attention", ATTENTIONS), ("connection", CONNECTIONS))
    return {
        kind: {"word": part.word, **{key: _text(value) for key, value in _options(part, known).items()}}
        for kind, known in parts
        if (part := getattr(model, kind))
    }


def _build(model: ModelName, classes: int) -> Network:
    sockets: dict[str, Any] = {"classes": classes}
    if part := model.attention:
        sockets["attention"] = partial(_target(part, ATTENTIONS), **_options(part, ATTENTIONS))
    network = _target(model.backbone, BACKBONES)(**sockets, **_options(model.backbone, BACKBONES))
    if part := model.connection:
        network = _target(part, CONNECTIONS)(network, **_options(part, CONNECTIONS))
    return network


@cache
def _fits(name: str, classes: int, image_size: int | None) -> None:
    """One forward without memory or arithmetic: grids and map sizes are checked where they meet."""
    with torch.device("meta"), torch.no_grad():
        network = _build(parse(name), classes).eval()
        side = image_size or network.image_size
        network(torch.empty(1, 3, side, side))


def _target(part: Part, known: dict[str, str]) -> Callable[..., Any]:
    module, attribute = known[part.word].split(":")
    return getattr(importlib.import_module(module), attribute)


def _schema(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {key: p for key, p in inspect.signature(target).parameters.items() if key not in SOCKETS}


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
        key: _value(part.word, key, given[key], hints[key]) if key in given else parameter.default
        for key, parameter in schema.items()
    }


def _value(word: str, key: str, text: str, kind: Any) -> Any:
    if kind is int:
        return whole_number(f"{word} option {key}", text)
    if kind is bool:
        if text not in ("true", "false"):
            raise OutOfRange(f"{word} option {key}={text}: use true or false.")
        return text == "true"
    return tuple(sorted(set(split_list(text)))) if get_origin(kind) is tuple else text


def _text(value: Any) -> str:
    return (
        str(value).lower() if isinstance(value, bool) else "+".join(value) if isinstance(value, tuple) else str(value)
    )
