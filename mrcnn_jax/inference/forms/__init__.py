"""Forms in which predictions are written, each made from the lines of predictions.jsonl."""
