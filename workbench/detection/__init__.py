"""Detectors: backbone, pyramid and heads; their batches, their training, and COCO's average precision."""

from workbench.detection.detector import Detections, Detector

__all__ = ["Detections", "Detector"]
