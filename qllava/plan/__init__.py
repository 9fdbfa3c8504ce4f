"""VRAM and time arithmetic, device probe and the choice of defaults; no torch at module level."""
