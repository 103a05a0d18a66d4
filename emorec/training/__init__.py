"""Training: epochs over batches, losses, validation, checkpoints."""
