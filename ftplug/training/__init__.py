"""One Trainer run; the private names of transformers' Trainer live here."""
