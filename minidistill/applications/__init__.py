"""What distillation is good for: preference tuning, vision, 4-bit healing, draft models."""
