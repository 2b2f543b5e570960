from workbench.backbones.network import Network

__all__ = ["Network"]
