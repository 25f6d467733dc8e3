"""Pictures of predictions and ground truth."""
