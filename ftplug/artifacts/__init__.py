"""Artifacts and checkpoints: written, read, verified."""
