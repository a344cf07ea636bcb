"""The networks of the project's own, built in PyTorch."""
