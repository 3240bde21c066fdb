"""A small real RL run (GRPO on a 0.6M transformer) in which ways of choosing prompts compete."""
