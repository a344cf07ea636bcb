"""Frozen networks, ready to run: folded, rewritten, and in their precision."""
