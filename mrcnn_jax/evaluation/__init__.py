"""From device detections to results in original pixels and their COCO scores."""
