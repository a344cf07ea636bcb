"""Many runs of one store: a grid of aggregators, patterns, clips and seeds."""
