"""The model card of an artifact."""
