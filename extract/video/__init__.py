"""The content of a video file: its exact frames, and the clips made of them."""
