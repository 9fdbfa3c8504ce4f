"""Training speed and memory, measured: ours and, on request, stock TRL's, on the same model and data."""
