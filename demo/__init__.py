"""The whole pipeline on videos that it renders itself: `faster demo`."""
