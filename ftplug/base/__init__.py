"""The base model before any method touched it: identity, fingerprint, revision, licence."""
