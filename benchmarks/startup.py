"""Print the best of five wall times of ``ftplug --help`` and ``ftplug methods``, in seconds."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

COMMANDS = (["--help"], ["methods"])


def best_of_five(arguments: list[str]) -> float:
    """Return the shortest of five runs of the installed command."""
    command = [str(Path(sys.executable).with_name("ftplug")), *arguments]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    for arguments in COMMANDS:
        print(f"ftplug {' '.join(arguments)}: {best_of_five(arguments):.3f} s")
