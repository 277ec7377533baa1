"""Loggers show figures outside of `metrics.jsonl`. `trainer.registry` knows them by name."""
