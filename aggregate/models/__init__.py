"""The aggregators: what turns a video's maps into class scores."""
