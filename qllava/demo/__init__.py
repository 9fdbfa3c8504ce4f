"""Rendered scenes in COCO format and the measured demo."""
