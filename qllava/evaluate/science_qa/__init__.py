"""ScienceQA (Lu et al. 2022): its problems, its prompts, and its table with every published column."""
