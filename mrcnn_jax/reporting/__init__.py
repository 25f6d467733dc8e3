"""Pictures of predictions and ground truth, scores of several runs, and what compiled programs cost."""
