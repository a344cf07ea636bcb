"""The training loop that both stages share, with its checkpoints, run folder and processes."""
