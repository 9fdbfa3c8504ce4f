"""Assembling the stock LLaVA model: build, quantise, LoRA, audits."""
