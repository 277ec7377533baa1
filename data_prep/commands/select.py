"""`chorus prep select`."""
