"""Inference: from a weights folder and images to detections on the host."""
