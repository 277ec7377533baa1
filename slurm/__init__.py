"""Submission to SLURM clusters: profiles, job scripts, chains, sweeps, and what became of runs.

`chorus submit`, `chorus runs` and `chorus cancel`; how they behave is in docs/cluster.md.
"""
