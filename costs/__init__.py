"""GFLOPs of networks and mixtures, and the paper's tables recomputed."""
