"""`chorus prep watkins` and `birdset`."""
