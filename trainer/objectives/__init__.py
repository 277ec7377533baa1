"""What an encoder is trained for: each objective turns a batch and an encoder into a loss."""
