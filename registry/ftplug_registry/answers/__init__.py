"""Answers of a Hub, checked before the client acts on them."""
