"""Read a store: maps, logits, coverage."""
