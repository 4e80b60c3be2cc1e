"""Beyond the laptop: losses that never hold all logits."""
