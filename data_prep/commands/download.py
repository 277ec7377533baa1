"""`chorus prep download`."""
