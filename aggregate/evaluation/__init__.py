"""Evaluation of a trained aggregator: logits to accuracy, calibration, confusion and predictions."""
