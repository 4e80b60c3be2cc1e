"""One module a lesson: what its notebook computes, draws and asks."""
