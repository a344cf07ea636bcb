"""Training a backbone, the paper's first stage: `train` puts the parts together."""
