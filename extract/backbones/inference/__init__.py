"""A frozen network made ready to run: folded, rewritten, in its precision."""
