"""`chorus prep labels`."""
