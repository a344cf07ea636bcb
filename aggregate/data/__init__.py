"""Maps for training: which clips of which model, drawn, prefetched, pooled."""
