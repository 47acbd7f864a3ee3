"""Virtual tokens: positions, embeddings and key-value caches before the input."""
