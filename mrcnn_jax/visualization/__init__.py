"""Detections and ground truth drawn into images."""
