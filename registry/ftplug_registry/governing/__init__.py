"""What happens to an artifact once it is published: promoted, deprecated, withdrawn."""
