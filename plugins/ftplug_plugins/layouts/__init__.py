"""Adapters that other libraries saved: their layouts, read for ``ftplug adopt``."""
