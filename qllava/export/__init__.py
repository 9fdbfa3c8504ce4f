"""A run as a model that others load: merged, in 4 bits, as an adapter, or as GGUF; every export is proven first."""
