"""Probes, retrieval and clustering of frozen embeddings, with baselines on the same splits."""
