"""Readers of public archives: each yields recordings, and says why a row is none."""
