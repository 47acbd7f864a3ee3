"""What a model was before any method touched it: identity, fingerprint, revision, licence."""
