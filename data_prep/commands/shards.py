"""`chorus prep shards`, `chorus data verify` and `describe`."""
