"""The conformance kit's tiny models, under the short name that the tests use."""

from ftplug.testing.tiny import *  # noqa: F403
