"""Fetching an artifact and verifying it."""
