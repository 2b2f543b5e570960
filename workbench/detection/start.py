"""A detector whose backbone comes trained, as all three papers start."""

from torch import Tensor

from workbench.detection.detector import FIRST, Detector
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
    detector.freeze(*FIRST)
