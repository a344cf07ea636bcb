"""The project's own networks in PyTorch."""
