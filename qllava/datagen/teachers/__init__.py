"""Who writes the answers: language models behind an OpenAI-compatible endpoint, one by one or in batches."""
