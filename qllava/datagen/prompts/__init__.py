"""The prompts of language-model teachers: text files, and how they are read."""
