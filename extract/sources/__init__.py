"""Videos and their labels: recognise a folder or a list, and make one record per video."""
