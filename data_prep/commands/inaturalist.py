"""`chorus prep inaturalist`."""
