"""Applications of distillation: preference tuning, vision, LoRA recovery of 4 bits, draft models."""
