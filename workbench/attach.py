"""Attention in networks that this project did not build: torchvision's, timm's, one's own, without touching their code.

    network = attach(torchvision.models.resnet50(weights="DEFAULT"), "dca-cra7", where="layer*.*.bn3")
    logits, trail = trace(network, pictures)

Each attended module gets a forward hook that sends its output through a block, so the network's own state_dict keys
stay and its weights still load.  The Trail of a forward pass travels in a context variable, one a thread.  A part of
the network may run on its own, too, unless its blocks are connected; torch.compile(fullgraph=True) is not promised.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workbench.attention import Site, Trail, attentions
from workbench.backbones import Network
from workbench.build import bound, socket
from workbench.errors import OutOfRange
from workbench.names import parse

N = TypeVar("N", bound=nn.Module)


def attach(network: N, name: str, where: str, image_size: int = 224) -> N:
    """Gate the output of the modules `where` by fresh blocks of the attention `name`, in place, and return `network`.

    name: an attention with or without a connection, "cra7" or "dca-se[reduction=8]", or a class of one's own,
    "my_module:MyAttention".  where: a pattern of module names, "layer*.*.bn3"; each must run once in a forward and
    return a map (N, C, H, W).  image_size: side in pixels of the square pictures that map sizes are found with.  The
    blocks are network.attention_blocks, in the order they run.  Errors leave the network as it was.
    """
    builder, connect = _resolve(name)
    if image_size < 1:
        raise OutOfRange(f"Image size {image_size} px; it must be at least 1.")
    if any(attentions(network)) or hasattr(network, "attention_blocks"):
        raise OutOfRange(
            f"This {type(network).__name__} has attention blocks already; detach it first, or name all in one `where`."
        )
    sites = _sites(network, where, image_size)
    like = next(network.parameters(), torch.empty(0))
    blocks = Blocks(builder(site) for site in sites.values())
    connect(blocks)
    network.attention_blocks = blocks.to(like.device, like.dtype).train(network.training)
    for number, path in enumerate(sites):
        blocks.hooks.append(network.get_submodule(path).register_forward_hook(Gate(number, blocks)))
    blocks.hooks.append(network.register_forward_pre_hook(_begin))
    blocks.hooks.append(network.register_forward_hook(_end, always_call=True))
    try:
        _try(network, image_size)  # grids and connections meet the maps
    except BaseException:
        detach(network)
        raise
    return network


def detach(network: N) -> N:
    """Remove what `attach` put into `network`, hooks and blocks, and return it."""
    blocks = getattr(network, "attention_blocks", None)
    if not isinstance(blocks, Blocks):
        raise OutOfRange(f"Nothing is attached to this {type(network).__name__}; `attach` puts attention into it.")
    for hook in blocks.hooks:
        hook.remove()
    del network.attention_blocks
    return network


def trace(network: nn.Module, images: Any) -> tuple[Any, Trail]:
    """What `network(images)` returns, and what every attention block did on the way.

    network: one with attached blocks, a module that holds one such network, or a Network of this project.
    """
    attached = [module for module in network.modules() if isinstance(module, Blocks)]
    if not attached and isinstance(network, Network):
        return network.trace(images)
    if len(attached) != 1:
        raise OutOfRange(
            f"This {type(network).__name__} holds {len(attached) or 'no'} attached networks; trace one that `attach` "
            "or `build` returned."
        )
    trail = Trail(records=True)
    token = _running.set(Running(attached[0], trail, _running.get()))
    try:
        return network(images), trail
    finally:
        _running.reset(token)


class Blocks(nn.ModuleList):
    """The attached blocks of one network and the hooks that run them.

    As a layer it is the identity, for networks that run all their children, such as nn.Sequential.
    """

    def __init__(self, blocks: Iterator[nn.Module]):
        super().__init__(blocks)
        self.hooks: list[RemovableHandle] = []

    def forward(self, x: Any) -> Any:
        return x


class Running(NamedTuple):
    """A forward pass in progress: whose, its Trail, and the pass of another network that it is part of."""

    blocks: Blocks
    trail: Trail
    outer: "Running | None"


_running: ContextVar[Running | None] = ContextVar("running", default=None)


class Gate:
    """Forward hook of an attended module: its output through a block.  An object, so that deepcopy copies the blocks.

    The replicas of nn.DataParallel share their hooks, this one too; each runs its own copy of the blocks.
    """

    def __init__(self, number: int, blocks: Blocks):
        self.number, self.blocks = number, blocks

    def __call__(self, module: nn.Module, inputs: Any, x: Tensor) -> Tensor:
        running = _running.get()
        if running is not None and running.blocks.hooks is not self.blocks.hooks:
            running = None  # another network's
        block = (running or self).blocks[self.number]
        if running is None and any(part.connection is not None for part in attentions(block)):
            raise OutOfRange(
                f"The attention at this {type(module).__name__} is connected with earlier ones; call the whole "
                "network, not a part of it or forward_features, and without activation checkpointing."
            )
        trail = running.trail if running else Trail()
        y = block(x, trail)
        # the network may add to its map in place, as torchvision's shortcuts do; what the Trail keeps stays as it was
        return y.clone() if trail.steps and any(value is y for value in trail.steps[-1]) else y


def _begin(network: nn.Module, inputs: Any) -> None:
    """Before a forward: a new Trail, or the empty one that `trace` laid ready."""
    running, mine = _running.get(), cast(Blocks, network.attention_blocks)
    if running is None or running.blocks is not mine:
        _running.set(Running(mine, Trail(), running))
    elif running.trail.steps:  # left by a KeyboardInterrupt, after which torch runs no hook
        _running.set(running._replace(trail=Trail()))


def _end(network: nn.Module, inputs: Any, output: Any) -> None:
    """After a forward, also one that failed, even before it began."""
    running = _running.get()
    if running is not None and running.blocks is network.attention_blocks:
        _running.set(running.outer)


def _resolve(name: str) -> tuple[Callable[[Site], nn.Module], Callable[[nn.Module], nn.Module]]:
    """What builds a block at a Site, and what connects the blocks; raises UnknownName or OutOfRange."""
    model = parse(f"{name}-resnet50")  # the grammar of names ends in a backbone
    part, joint, foreign = model.attention, model.connection, model.detector or model.conv
    if part and not foreign and socket(part, "attention") in ("attention", "stage"):
        return bound(part, "attention"), bound(joint, "connection") if joint else lambda blocks: blocks
    raise OutOfRange(
        f"{name!r}: {foreign or part} does more than gate one map, so it cannot be attached; `build` a network with it."
    )


def _sites(network: nn.Module, where: str, image_size: int) -> dict[str, Site]:
    """Module name -> Site of every module that `where` matches, in the order they run.

    A stage is a run of maps of one size.  The input is that of the module's parent, or its own where the parent holds
    several of them: the parent of a BN is its residual block, that of a residual block its whole stage.
    """
    kind, names = type(network).__name__, [name for name, _ in network.named_modules() if name]
    parents = {name: name[: name.rfind(".") + 1] for name in names if fnmatchcase(name, where)}
    if not parents:
        near = ", ".join(get_close_matches(where, names, 4, cutoff=0)) or "none"
        raise OutOfRange(f"No module of this {kind} matches {where!r}; its modules include {near}.")
    passes = _observe(network, {*parents, *(parent[:-1] for parent in parents.values())}, image_size)
    inputs = {name: shape for name, shape, _ in passes}
    sites: dict[str, Site] = {}
    stage, block, before = 0, 0, tuple[int, ...]()
    for name, own, shape in (one for one in passes if one[0] in parents):
        if name in sites:
            raise OutOfRange(f"{name!r} runs several times in one forward, a block only once; narrow {where!r}.")
        if len(shape) != 4:
            form = "x".join(map(str, shape)) or "no tensor"
            raise OutOfRange(f"{name!r} returns {form}, and attention needs a map (N, C, H, W); narrow {where!r}.")
        alone = sum(other.startswith(parents[name]) for other in parents) == 1
        wide = inputs.get(parents[name][:-1], own) if alone else own
        entry = next(given for given in (wide, own, shape) if len(given) == 4)
        stage, block = (stage, block + 1) if shape[2:] == before else (stage + 1, 1)
        before = shape[2:]
        sites[name] = Site(stage, block, entry[1], shape[1], max(1, round(entry[2] / shape[2])))
    if idle := [name for name in parents if name not in sites]:
        raise OutOfRange(f"{idle[0]!r} does not run when this {kind} is evaluated; narrow {where!r}.")
    return sites


def _observe(network: nn.Module, names: set[str], image_size: int) -> list[tuple[str, tuple, tuple]]:
    """(name, shape in, shape out) of each module in `names`, in the order they end; () where there is no tensor."""
    passes: list[tuple[str, tuple, tuple]] = []

    def see(name: str, module: nn.Module, arguments: tuple, keywords: dict, output: Any) -> None:
        given = [x.shape for x in (*arguments, *keywords.values()) if isinstance(x, Tensor)]
        passes.append((name, given[0] if given else (), output.shape if isinstance(output, Tensor) else ()))

    with ExitStack() as stack:
        for name in names:
            hook = network.get_submodule(name).register_forward_hook(partial(see, name), with_kwargs=True)
            stack.callback(hook.remove)
        try:
            _try(network, image_size)
        except (RuntimeError, AssertionError) as error:
            raise OutOfRange(
                f"This {type(network).__name__} does not run on pictures of {image_size} px; give the image_size that "
                f"it is made for. ({str(error).partition(chr(10))[0]})"
            ) from error
    return passes


def _try(network: nn.Module, image_size: int) -> None:
    """One forward of an empty picture in evaluation mode; modes, buffers and random numbers stay as they were."""
    channels = next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 3)
    like = next(network.parameters(), torch.empty(0))
    picture = torch.zeros(1, channels, image_size, image_size, device=like.device, dtype=like.dtype)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    drawn = [like.device] if like.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(drawn), _evaluating(network):
        torch.func.functional_call(network, buffers, (picture,))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
