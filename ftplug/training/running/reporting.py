"""The report of a run, as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftplug.files.staged import replace_file


def write_report(path: Path, content: dict[str, Any]) -> None:
    """Write the report; it appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(content, indent=2, default=str) + "\n").encode("utf-8"))
