"""Scores: exact match, and whether the model looks at the picture."""
