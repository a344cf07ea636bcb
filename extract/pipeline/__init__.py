"""Decode, forward and write at once: a store's shards, made by processes, dask or a batch system."""
