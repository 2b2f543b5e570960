"""Detectors: batches of pictures with boxes, and COCO's average precision of what is found."""
