"""Adapters that other libraries published, fetched and made artifacts: ``ftplug adopt``."""
