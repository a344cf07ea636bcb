"""The complete pipeline on rendered videos: `faster demo`."""
