"""A weights folder becomes detections on the host."""
