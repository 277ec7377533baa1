"""Submission to SLURM clusters: profiles, job scripts, chains. Not built yet.

A job script written by hand works today: see "Several GPUs" in the README and docs/training.md.
"""
