"""Checking an artifact: its files, its base, and whatever else ``ftplug verify`` is asked for."""
