"""A stream: the training loop, labels on the fly, recent frames, ages, votes."""
