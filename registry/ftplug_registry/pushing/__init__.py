"""Publishing an artifact in one commit."""
