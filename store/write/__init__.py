"""A store created, its shards written and committed, finalised, removed."""
