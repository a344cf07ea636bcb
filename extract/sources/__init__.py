"""Videos and their labels: recognise a folder or a list, one record a video."""
