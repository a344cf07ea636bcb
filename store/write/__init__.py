"""Create a store, write and commit its shards, finalise it, remove shards."""
