"""What is said of an artifact after it was published, in its card alone."""
