"""An extraction as jobs of a batch system: shares, job scripts, and how far it is."""
