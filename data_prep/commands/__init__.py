"""The commands of `chorus prep` and `chorus data`, one module per step of the way."""
