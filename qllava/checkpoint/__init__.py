"""Runs and checkpoints on disk: manifest, save, load."""
