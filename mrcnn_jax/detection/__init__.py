"""Pure functions: from a batch to its losses, from images to detections."""
