"""The embedded Hub's answers to each request."""
