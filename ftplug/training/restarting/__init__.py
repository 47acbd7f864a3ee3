"""Runs that are started again: from which checkpoint, after which signal, by how many processes."""
