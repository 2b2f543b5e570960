"""torch.compile where there is a C++ compiler to run it; elsewhere the module as it is, with one notice."""

import logging
import shutil
from functools import cache
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)


def compiled(module: nn.Module, **options: Any) -> Any:
    """The module through torch.compile, or itself where that cannot work; options are torch.compile's."""
    return torch.compile(module, **options) if has_compiler() else module


@cache
def has_compiler() -> bool:
    """Is there a C++ compiler?  Says once what is missing when there is none."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        found = bool(shutil.which(get_cpp_compiler()))
    except Exception as error:  # torch raises errors of several private classes here
        log.debug("%s", error)
        found = False
    if not found:
        log.warning("No C++ compiler found: networks run uncompiled. Install g++ (or set CXX) to compile them.")
    return found
