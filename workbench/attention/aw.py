"""AW-convolution (Zhu et al., ICANN 2021): attention maps of the shape of the weights, one kernel a picture."""

from workbench.attention.base import Attention, ConvSpec, Site


class AWConv(Attention):
    dim = "weight"
    socket = "conv"

    def __init__(self, site: Site, spec: ConvSpec, reduction: int = 16):
        super().__init__(site)
