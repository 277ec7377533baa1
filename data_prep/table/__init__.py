"""The recording table: what every archive reader writes and every later step reads."""
