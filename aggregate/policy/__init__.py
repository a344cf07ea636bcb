"""Which clips deserve the expensive network: a learned policy will stand here."""
