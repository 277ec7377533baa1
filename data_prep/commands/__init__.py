"""The commands of `chorus prep` and `chorus data`, one module for each step."""
