"""Aggregators that pool the clips: average, maximum, NetVLAD and others."""
