"""Instruction data from captions and boxes: sources, facts, teachers, pipeline; no torch."""
