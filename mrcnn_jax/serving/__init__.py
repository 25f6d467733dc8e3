"""A page and an HTTP server for a predictor: uploads are read with limits, batched, predicted and answered as JSON."""
