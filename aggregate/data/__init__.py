"""Maps for training: which clips of which model, drawn, read ahead, pooled."""
