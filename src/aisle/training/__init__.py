"""Training: batches, the loop, validation, checkpoints."""
