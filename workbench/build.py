"""Name -> network: the only place where attention and backbones meet.

The signature of a class is the schema of its options: `se[reduction=8]` is `SE(site, reduction=8)`.  A class of your
own is a name too: `my_module:MyAttention-resnet20`, imported like any module; its source is part of the run key.
"""

import ast
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import cache, partial
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from workbench.attention import Trail
from workbench.errors import OutOfRange, UnknownName
from workbench.names import BACKBONES, SLOTS, ModelName, Part, number, parse, split_list, whole_number

SOCKETS = ("attention", "conv", "stage", "head")
KINDS = (bool, float, int, str)
GIVEN = {"self", "site", "spec", "network", "classes", *SOCKETS}  # by the backbone, never by a name
KNOWN = SLOTS | {"backbone": BACKBONES}


def build(name: str | ModelName, classes: int = 1000, image_size: int | None = None, checked: bool = True) -> Any:
    """The Network of this name with fresh weights from torch's current seed; a Detector, where it names one.

    image_size: the picture side in pixels to check grids against; the backbone's own (224, 32 or 16) by default.  What
    a detector resizes the shorter side to, in place of its own.
    checked: try one forward on the meta device, which a caller that is about to do the same can spare.
    Raises UnknownName or OutOfRange with what is allowed.
    """
    model = parse(str(name))
    if classes < 1:
        raise OutOfRange(f"{classes} classes; a network needs at least 1.")
    if image_size is not None and image_size < 1:
        raise OutOfRange(f"Image size {image_size} px; it must be at least 1.")
    if checked and (model.attention or model.conv or model.detector or image_size is not None):
        _fits(str(model), classes, image_size)
    return _build(model, classes, image_size)


@cache
def image_size(name: str) -> int:
    """The side of the pictures that this network is made for, in pixels."""
    with torch.device("meta"):
        return _build(parse(name), 1).image_size


def canonical(name: str | ModelName) -> ModelName:
    """The same network under its shortest name: default options dropped, the size always written."""
    model = parse(str(name))

    def short(part: Part, known: dict[str, str]) -> Part:
        values, schema = _options(part, known), _schema(_target(part, known))
        size = None if ":" in part.word else values.pop("size", None)  # my_module:Class7 would be another class
        kept = {key: value for key, value in values.items() if value != schema[key].default}
        return Part(part.word, size, tuple((key, _written(value)) for key, value in kept.items()))

    return ModelName(**{slot: short(part, KNOWN[slot]) for slot, part in _parts(model).items()})


def resolved(name: str | ModelName) -> dict[str, Any]:
    """Every option that makes this network, defaults written out; what an experiment's key hashes."""
    found = {}
    for slot, part in _parts(parse(str(name))).items():
        values = {key: _text(value) for key, value in _options(part, KNOWN[slot]).items()}
        found[slot] = {
            "word": part.word,
            **values,
            **({"source": _source(_target(part, KNOWN[slot]))} if ":" in part.word else {}),
        }
    return found


def bound(part: Part, slot: str) -> Callable[..., Any]:
    """The class or function that this part of a name stands for, with its options, defaults written out."""
    return partial(_target(part, KNOWN[slot]), **_options(part, KNOWN[slot]))


def socket(part: Part, slot: str) -> str:
    """Where the module stands in a network, which may depend on its options."""
    module: Any = bound(part, slot)
    found = module.func.socket
    return found(**module.keywords) if callable(found) else found


def _parts(model: ModelName) -> dict[str, Part]:
    return {slot: part for slot in ("backbone", *SLOTS) if (part := getattr(model, slot))}


def _build(model: ModelName, classes: int, image_size: int | None = None) -> Any:
    backbone = bound(model.backbone, "backbone")
    sockets: dict[str, Any] = {}
    for slot in ("conv", "attention"):
        if part := getattr(model, slot):
            place = socket(part, slot)
            if place not in inspect.signature(backbone).parameters or place in sockets:
                raise OutOfRange(
                    f"{model}: {part} needs a free {place!r} socket, and {model.backbone} has "
                    f"{', '.join(repr(s) for s in _sockets(backbone) if s not in sockets) or 'none'}. "
                    "`workbench show` tells where a module sits."
                )
            sockets[place] = bound(part, slot)
    network = backbone(classes=classes, **sockets)
    if model.connection:
        network = bound(model.connection, "connection")(network)
    if not model.detector:
        return network
    given = {} if image_size is None else {"image_size": image_size}
    return bound(model.detector, "detector")(network, classes, **given)


def _sockets(backbone: Callable[..., Any]) -> list[str]:
    return [key for key in inspect.signature(backbone).parameters if key in SOCKETS]


@cache
def _fits(name: str, classes: int, image_size: int | None) -> None:
    """One forward without memory or arithmetic: grids and map sizes are checked where they meet."""
    with torch.device("meta"), torch.no_grad():
        network = _build(parse(name), classes, image_size).eval()
        with running(name, network, image_size) as picture:
            (network.maps if parse(name).detector else network.logits)(picture, Trail())


@contextmanager
def running(name: str, network: Any, image_size: int | None) -> Iterator[Tensor]:
    """An empty picture for `network`, a Network or a Detector, on the meta device; what fails within becomes one
    sentence."""
    side = image_size or network.image_size
    try:
        yield torch.empty(1, 3, side, side, device="meta")
    except RuntimeError as error:
        made, reason = network.image_size, str(error).partition("\n")[0]
        raise OutOfRange(
            f"{name} does not run on {side}x{side} pictures; it is made for {made} px. ({reason})"
        ) from error
    except AttributeError as error:
        if ":" not in name:
            raise
        raise OutOfRange(f"{name}: {error}. An attention sets extract and transform in its constructor.") from error


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
    module_class = inspect.isclass(found) and issubclass(found, nn.Module) and hasattr(found, "socket")
    if not module_class or "site" not in inspect.signature(found).parameters:
        raise OutOfRange(
            f"{word!r} is not an attention block; make it a subclass of workbench.attention.Attention "
            "with a constructor (self, site, ...) that sets extract and transform."
        )
    return found


@cache
def _source(kind: Any) -> str:
    """A short hash of the files of a user's class, as they were when it was first used.

    Those that it and its own bases stand in, and those beside them that they import, and so on.
    """
    modules = dict.fromkeys(one.__module__ for one in kind.__mro__)
    own = [*filter(_foreign, modules)]
    try:
        for name in own:  # which grows
            own += sorted(_imported(sys.modules[name]) - {*own})
        text = "".join(_source_text(sys.modules[name]) for name in own)
    except (OSError, TypeError) as error:
        raise OutOfRange(
            f"The source of {kind.__name__!r} in {kind.__module__!r} cannot be read; put the class into a file."
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _imported(module: ModuleType) -> set[str]:
    """The modules in the folder of this one or of its package, or below, that it imports; nothing installed."""
    names = set()
    for node in ast.walk(ast.parse(_source_text(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), module.__package__ or None)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    found = {name: getattr(sys.modules.get(name), "__file__", None) for name in names if _foreign(name)}
    files = {name: Path(file).resolve() for name, file in found.items() if file}
    depth = len(module.__package__.split(".")) if module.__package__ else 0
    folder = Path(module.__file__ or "").resolve().parents[depth]
    return {name for name, file in files.items() if file.is_relative_to(folder) and "site-packages" not in file.parts}


def _source_text(module: ModuleType) -> str:
    """Its source; of an empty file, which inspect takes for none, too."""
    file = module.__file__
    return "" if file and not Path(file).stat().st_size else inspect.getsource(module)


def _foreign(name: str) -> bool:
    """Is this module neither torch's nor ours?"""
    return name.split(".")[0] not in ("builtins", "torch", "workbench")


def _schema(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {key: p for key, p in inspect.signature(target).parameters.items() if key not in GIVEN}


def _options(part: Part, known: dict[str, str]) -> dict[str, Any]:
    """The options of `part` as typed values, defaults included."""
    target = _target(part, known)
    schema = _schema(target)
    function: Any = getattr(target, "func", target)
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for key, parameter in schema.items():
        kind = hints.get(key)
        if parameter.default is parameter.empty or not (kind in KINDS or get_origin(kind) in (tuple, Literal)):
            raise OutOfRange(
                f"{part.word!r}: its option {key} needs a type and a default in the constructor, for example "
                f"{key}: int = 3; types are int, float, bool, str, a Literal of words and tuple[str, ...]."
            )
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
    if kind is float:
        return number(f"{word} option {key}", text)
    if kind is bool:
        if text not in ("true", "false"):
            raise OutOfRange(f"{word} option {key}={text}: use true or false.")
        return text == "true"
    return tuple(sorted(set(split_list(text)))) if get_origin(kind) is tuple else text


def _written(value: Any) -> str:
    """As in a name, which has no exponents; keys hash `_text`, so that stays as it is."""
    return f"{Decimal(repr(value)):f}" if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    return (
        str(value).lower() if isinstance(value, bool) else "+".join(value) if isinstance(value, tuple) else str(value)
    )
