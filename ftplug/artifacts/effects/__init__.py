"""The effect of an artifact: what is written of it at a save, what is checked at a load."""
