"""What an encoder is trained for; `trainer.registry` knows the objectives by name."""
