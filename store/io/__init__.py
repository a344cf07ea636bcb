"""Input and output: byte ranges of files, memory maps, objects on S3."""
