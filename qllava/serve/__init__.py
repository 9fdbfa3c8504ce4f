"""A trained run behind an OpenAI-compatible API, and a page to talk to it."""
