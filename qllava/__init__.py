"""Turn a language model and a vision encoder into a vision-language assistant on one 24 GB card."""

__version__ = "0.1.0"
