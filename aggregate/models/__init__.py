"""The aggregators: networks that turn a video's maps into class scores."""
