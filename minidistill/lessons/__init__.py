"""The lessons' own tools: figures, sliders, exercises. Notebooks, tests and drawing commands import them."""
