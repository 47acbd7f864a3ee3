"""Adapters that other libraries trained, made artifacts of ftplug: ``ftplug adopt``."""
