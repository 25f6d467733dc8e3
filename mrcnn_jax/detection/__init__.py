"""Pure functions that compute the losses of a batch and the detections in images."""
