"""LLaVA-Bench: a language model scores two answers to each question, the reference's and ours."""
