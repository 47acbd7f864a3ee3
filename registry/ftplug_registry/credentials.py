"""Finding tokens and keys in text before it is published; the host shows none in reports either."""

from ftplug.files.credentials import credential_in, decoded, own_secrets

__all__ = ["credential_in", "decoded", "own_secrets"]
