"""Evaluation: predictions on a data set, and their COCO and Cityscapes scores."""
