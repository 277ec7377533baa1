"""Where figures go besides `metrics.jsonl`; `trainer.registry` knows the loggers by name."""
