"""Signatures: OpenSSF model signing of artifacts, whose keys are trusted, and first-use pins."""
