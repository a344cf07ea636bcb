"""What lies on disk: the schema, the manifest, receipts, encodings, shard files."""
