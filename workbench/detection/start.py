"""A detector whose backbone comes trained, as all three papers start."""

from torch import Tensor, autograd, empty, nn

from workbench.attention import Trail
from workbench.backbones import Network
from workbench.detection.detector import Detector
from workbench.detection.fpn import PROBE_PX, ghost
from workbench.errors import Corrupt
from workbench.training.state import alike


def start(detector: Detector, weights: dict[str, Tensor]) -> None:
    """Put the weights of the bare network into the backbone; from then on its BN, stem and first stage stay as they
    are, which is the habit of Detectron and of MMDetection.

    The classifier's weights, which a backbone has not, are left out.  Raises Corrupt where another is missing or of
    another shape.
    """
    body = detector.network
    own = body.state_dict()
    known = {name: value for name, value in weights.items() if name in own}
    try:
        alike(known, own)
    except ValueError as error:
        raise Corrupt(f"These weights are not those of this backbone ({error}); train it again.") from error
    body.load_state_dict(known)
    detector.freeze()
    for parameter in first(body):
        parameter.requires_grad_(False)


def first(network: Network) -> list[nn.Parameter]:
    """What the first map is made of, stem and first stage; with them what no map uses, as DCA's first connection.

    Told by gradients on the meta device, so that it holds for every backbone.
    """
    body = ghost(network).requires_grad_()
    maps, parameters = body.maps(empty(1, 3, PROBE_PX, PROBE_PX, device="meta"), Trail()), list(body.parameters())
    early, late = (
        autograd.grad(y.sum(), parameters, retain_graph=True, allow_unused=True) for y in (maps[0], maps[-1])
    )
    return [p for p, a, b in zip(network.parameters(), early, late, strict=True) if a is not None or b is None]
