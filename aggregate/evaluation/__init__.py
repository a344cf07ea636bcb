"""A trained aggregator's figures: logits to accuracy, calibration, confusion and predictions."""
