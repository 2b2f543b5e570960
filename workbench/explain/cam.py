"""Grad-CAM (Selvaraju et al., ICCV 2017) through the package grad-cam: the values of CRA Fig. 4 and DCA Fig. 4.

    w_k = mean over positions of d y_c / d A_k
    L_c = relu(sum over k of w_k A_k)

A_k is channel k of the map after a stage and y_c the logit of the class.  The package scales L_c to [0, 1] by its
minimum and maximum, resizes it to the picture and scales it again.  A map without positive evidence is all zeros; one
far below 1e-7, which is added to the maximum, stays near zero.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.attention import Trail
from workbench.backbones import Network
from workbench.errors import OutOfRange, UnknownName
from workbench.explain.maps import check, untouched

METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
}


def grad_cam(
    network: nn.Module,
    pictures: Tensor,
    targets: Sequence[int] | Tensor | None = None,
    stages: Sequence[int] | Sequence[str] | None = None,
    method: str = "gradcam",
) -> dict[Any, np.ndarray]:
    """Stage -> heat maps (N, H, W), float32 in [0, 1], at the size of the pictures (N, 3, H, W).

    targets: a class for each picture, the predicted ones by default.  stages: numbers from 1, all by default; or names
    of modules, which is how a layer of a network from elsewhere is chosen ("layer4").  The network is evaluated, and
    left as it was: modes, gradients, running statistics, hooks and the state of the random numbers.
    """
    if method not in METHODS:
        raise UnknownName("Grad-CAM method", method, METHODS)
    check(pictures)
    if torch.bfloat16 in (pictures.dtype, *(parameter.dtype for parameter in network.parameters())):
        raise OutOfRange(
            "Grad-CAM computes in numpy, which has no bfloat16; give network.float() and pictures.float()."
        )
    chosen = None if targets is None else [Logit(int(target)) for target in targets]
    if chosen is not None and len(chosen) != len(pictures):
        raise OutOfRange(f"{len(chosen)} targets for {len(pictures)} pictures; give one class for each, or none.")
    with torch.inference_mode(False), torch.enable_grad(), untouched(network), frozen(network), ExitStack() as stack:
        x = pictures.detach().clone().to(next(network.parameters()).device).requires_grad_()
        model, taps = tapped(network, x, stages, stack)
        cam = per_layer(METHODS[method])(model, taps)
        stack.callback(cam.activations_and_grads.release)  # its own context manager would hide an IndexError
        found = dict(zip(taps[0].passed, cam(x, chosen), strict=True))
    if bad := [name for name, heat in found.items() if not np.isfinite(heat).all()]:
        raise OutOfRange(f"Grad-CAM at {bad[0]!r} is not finite; the weights or the pictures hold NaN or infinity.")
    return {tap.name: found[tap.name] for tap in taps}


def brightest_quarter(heat: np.ndarray) -> float:
    """Share of all heat (H, W) in the quarter of the positions with the most of it, in [0.25, 1]; NaN without heat.

    0.25: the same heat everywhere; 1: all of it within a quarter of the picture.
    """
    total = heat.sum(dtype=np.float64)
    if not total:
        return float("nan")
    most_first = np.cumsum(np.sort(heat, axis=None)[::-1], dtype=np.float64)
    return float(np.interp(heat.size / 4, np.arange(heat.size + 1), [0.0, *most_first]) / total)


class Logit:
    """The logit of one class, y_c, of one picture."""

    def __init__(self, target: int):
        self.target = target

    def __call__(self, logits: Tensor) -> Tensor:
        if not 0 <= self.target < len(logits):
            raise OutOfRange(f"Target {self.target} of {len(logits)} classes; use 0 to {len(logits) - 1}.")
        return logits[self.target]


class Tap(nn.Identity):
    """A layer that hands on the map it is given and has the package's hooks.  passed: the taps so far, in order."""

    def __init__(self, name: int | str, passed: list[int | str]):
        super().__init__()
        self.name, self.passed = name, passed

    def forward(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() != 4 or not x.requires_grad:
            raise OutOfRange(f"{self.name!r} returns no map (N, C, H, W) with a gradient; choose a layer that does.")
        if self.name in self.passed:
            raise OutOfRange(f"{self.name!r} runs several times in a forward; choose the module that holds it.")
        self.passed.append(self.name)
        return x


class Tapped(nn.Module):
    """A network with a tap on the map after each stage; the map may be the output of no module, as DenseNet's last."""

    def __init__(self, network: Network, taps: list[Tap]):
        super().__init__()
        self.network, self.taps = network, taps

    def forward(self, x: Tensor) -> Tensor:
        """Network.logits, with taps between."""
        trail = Trail()
        maps = self.network.maps(x, trail)
        for tap in sorted(self.taps, key=lambda tap: tap.name):
            tap(maps[int(tap.name) - 1])
        return self.network.read(maps, trail)


class Tee:
    """Forward hook: the output goes to the tap, and a copy goes on, which the network may change in place."""

    def __init__(self, tap: Tap):
        self.tap = tap

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Tensor:
        return self.tap(output).clone()


def tapped(
    network: nn.Module, x: Tensor, stages: Sequence[int] | Sequence[str] | None, stack: ExitStack
) -> tuple[nn.Module, list[Tap]]:
    """The model that the package runs, and its taps; `stack` removes the hooks of those on named modules."""
    names, passed = [name for name, _ in network.named_modules() if name], list[int | str]()
    if stages and all(isinstance(stage, str) for stage in stages):
        taps = [Tap(str(name), passed) for name in dict.fromkeys(stages)]
        for tap in taps:
            if tap.name not in names:
                raise UnknownName(f"module of {type(network).__name__}:", str(tap.name), names)
            stack.callback(network.get_submodule(str(tap.name)).register_forward_hook(Tee(tap)).remove)
        return network, taps
    if not isinstance(network, Network):
        raise OutOfRange(
            f"No stages are known of this {type(network).__name__}; give names of its modules, such as {names[-1]}."
        )
    with torch.no_grad():
        count = len(network.maps(x[:1], Trail()))
    numbers: list[Any] = list(dict.fromkeys(range(1, count + 1) if stages is None else stages))
    if not numbers or not all(number in range(1, count + 1) for number in numbers):
        raise OutOfRange(f"Stages {', '.join(map(str, numbers)) or 'none'}; this network has stages 1 to {count}.")
    taps = [Tap(number, passed) for number in numbers]
    return Tapped(network, taps), taps


@cache
def per_layer(name: str) -> Callable[..., Any]:
    """The package's class of this name, returning the heat maps of each layer; its own returns their mean."""
    import pytorch_grad_cam

    class PerLayer(getattr(pytorch_grad_cam, name)):  # type: ignore[misc]
        def compute_cam_per_layer(self, x: Tensor, targets: Any, smooth: bool) -> list[np.ndarray]:
            passed, seen = self.target_layers[0].passed, len(self.activations_and_grads.gradients)
            if idle := [tap.name for tap in self.target_layers if tap.name not in passed]:
                raise OutOfRange(f"{idle[0]!r} does not run when the network is evaluated; choose another layer.")
            if seen < len(passed):
                raise OutOfRange(f"No gradient reaches {len(passed) - seen} of {', '.join(map(str, passed))}.")
            return super().compute_cam_per_layer(x, targets, smooth)

        def aggregate_multi_layers(self, maps: list[np.ndarray]) -> list[np.ndarray]:
            return [super(PerLayer, self).aggregate_multi_layers([one]) for one in maps]

    return PerLayer


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No parameter needs a gradient or gets one; afterwards each has its own again."""
    kept = [(parameter, parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
    try:
        for parameter, _, _ in kept:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, needed, gradient in kept:
            parameter.requires_grad_(needed)
            parameter.grad = gradient
