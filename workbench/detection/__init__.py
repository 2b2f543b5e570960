from workbench.detection.detector import Detections, Detector

__all__ = ["Detections", "Detector"]
