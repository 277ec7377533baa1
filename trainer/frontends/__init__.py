"""Front ends: waveform in, what an encoder takes out. `trainer.registry` knows them by name."""
