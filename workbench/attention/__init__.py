from workbench.attention.base import Attention, Dim, GlobalPool, GridPool, Site, Step, Trail, attentions

__all__ = ["Attention", "Dim", "GlobalPool", "GridPool", "Site", "Step", "Trail", "attentions"]
