"""Training: from a validated recipe to a finished run folder, one optimiser step at a time."""
