"""What a video file holds, its frames exactly, and the clips made of them."""
