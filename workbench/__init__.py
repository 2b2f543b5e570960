"""An interactive research workbench for attention modules in convolutional networks."""

__version__ = "0.1.0"
