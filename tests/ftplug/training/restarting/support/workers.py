"""One or two processes that each are ``ftplug run``, as torchrun or srun starts them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import kills
import restarted
import zero_ranks

GOES_ON = ["--method", "lora", "--set", "r=4", "--resume", "auto"]
TIMEOUT = 120  # seconds that a test waits for them, on a busy machine


def work(rank: int, size: int, port: int, arguments: list[str]) -> None:
    """Be one of them."""
    kills.quiet()
    if size > 1:
        kills.be_one_of_two(rank, port)
    with zero_ranks.on_cpus() if "--zero" in arguments else nullcontext():
        kills.command("run", *arguments)


def start(spawner: kills.Spawner, size: int, *arguments: Any) -> list[Any]:
    """Start ``ftplug run ARGUMENTS`` in so many processes, and return these."""
    port, words = kills.free_port(), list(map(str, arguments))
    return [spawner.start(work, rank, size, port, words) for rank in range(size)]


def codes(processes: list[Any]) -> list[int | None]:
    """Wait for processes, and return how they end; those that do not are killed: None."""
    for process in processes:
        process.join(TIMEOUT)
    found = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return found


def run(
    spawner: kills.Spawner, size: int, out: Any, *arguments: Any, preemptible: bool = False
) -> list[Any]:
    """Run the script in so many processes under ``--resume auto``; return their exit codes."""
    given = ["--preemptible"] if preemptible else []
    return codes(start(spawner, size, *GOES_ON, *given, "--", restarted.__file__, out, *arguments))
