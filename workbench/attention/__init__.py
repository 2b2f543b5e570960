from workbench.attention.base import Attention, ConvSpec, Dim, GlobalPool, GridPool, Site, Step, Trail, attentions

__all__ = ["Attention", "ConvSpec", "Dim", "GlobalPool", "GridPool", "Site", "Step", "Trail", "attentions"]
