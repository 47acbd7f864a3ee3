"""The versions of transformers for whose private names the binding is tested."""

from __future__ import annotations

import os

import transformers
from packaging.version import Version

from ftplug.errors import MethodError

TESTED = (Version("5.4"), Version("5.25"))  # from, up to but not including


def check_transformers() -> None:
    """Refuse a transformers whose private names were not tested."""
    installed = Version(Version(transformers.__version__).base_version)
    if not TESTED[0] <= installed < TESTED[1]:
        raise MethodError(
            f"ftplug's Trainer binding is tested with transformers >={TESTED[0]},<{TESTED[1]}, "
            f"not {installed}: install one of those"
        )


def untested_version() -> str | None:
    """Return the installed transformers where it is newer than those tested, else None."""
    installed = Version(Version(transformers.__version__).base_version)
    return str(installed) if installed >= TESTED[1] else None


def allow_untested() -> bool:
    """Whether ``FTPLUG_UNTESTED=allow`` asks to go on where a check of such a version fails."""
    return os.environ.get("FTPLUG_UNTESTED", "").lower() == "allow"
