"""An extraction as jobs of a batch system: shares, job scripts and progress."""
