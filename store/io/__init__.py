"""Bytes in and out: ranges of files, memory maps, objects on S3."""
