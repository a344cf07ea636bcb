"""A store opened for reading: maps, logits, coverage."""
