"""Beyond the laptop: losses that never hold all logits, and the methods in transformers' Trainer."""
