"""Repositories of the embedded Hub on disk."""
