"""What ``--try`` names: methods with settings, as one text."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.host import from_texts

if TYPE_CHECKING:
    from ftplug.method import Method


@dataclass(frozen=True)
class Candidate:
    """What is compared: a text as given, and the configured methods that it names."""

    text: str
    methods: list[Method]


def parse(text: str) -> Candidate:
    """Return what ``lora r=8``, ``freeze layers=2`` or ``lora+bitfit lora.r=4`` names."""
    names, *settings = shlex.split(text)
    texts = dict(setting.split("=", 1) for setting in settings)
    return Candidate(text, from_texts(names.split("+"), texts))
