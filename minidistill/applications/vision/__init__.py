"""Distil models that read an image and a text: LLaVA 1.5 and its kin, tiny or real."""
