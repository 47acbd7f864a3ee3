"""Methods on a model: what they add, what may train, and the way back to the base."""
