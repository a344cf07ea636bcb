"""The format on disk: schema, manifest, receipts, encodings and shard files."""
