"""Decode, forward and write at once: the shards of a store, made by processes, dask or a batch system."""
