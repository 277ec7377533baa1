"""Encoders; `trainer.registry` knows them by name. Exported models carry their files along."""
