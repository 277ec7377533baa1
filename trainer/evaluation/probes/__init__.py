"""Probes: small classifiers on frozen features; `trainer.registry` knows them by name."""
