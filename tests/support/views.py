"""The run view that the host gives a method's hook, for tests that call a hook themselves."""

from __future__ import annotations

from typing import Any

from ftplug import Method
from ftplug.attaching.attachment import require_attachment
from ftplug.context import RunView


def view(method: Method, model: Any) -> RunView:
    return require_attachment(model).host.views(method, model)
