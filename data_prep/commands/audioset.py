"""`chorus prep audioset`."""
