"""Generation from a trained run: the engine behind chat and evaluation."""
