"""Training: schedules, a training step, the training loop and checkpoints."""
