"""What surrounds the training step: signals, checkpoints, metrics, throughput, run folders."""
