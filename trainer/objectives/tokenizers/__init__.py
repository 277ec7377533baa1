"""Tokenizers: what turns each patch into a code, the target of masked pre-training."""
