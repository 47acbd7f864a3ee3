"""A package with relative imports, started with ``python -m classify``."""
