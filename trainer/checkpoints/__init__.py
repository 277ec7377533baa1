"""Checkpoints: written whole or not at all, in one file or in one folder per checkpoint."""
