"""What the embedded Hub answers to each request."""
