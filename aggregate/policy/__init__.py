"""Reserved for a learned policy that chooses which clips deserve the expensive network."""
