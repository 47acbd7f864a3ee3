"""Code of several methods: depth, token positions, optimizers."""
