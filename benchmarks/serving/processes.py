"""Servers as processes of ``.venv/served``: started, waited for, and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
SERVED = ROOT / ".venv" / "served"
VLLM, TRANSFORMERS, LLAMA_CPP = "vllm", "transformers", "llama-cpp"
STARTING = 900.0  # seconds


@contextmanager
def running(kind: str, model: Path, adapters: Mapping[str, Path]) -> Iterator[str]:
    """Yield the address of a server on a free port; its log lies beside the model."""
    port = _free_port()
    log = model.parent / f"{kind}-{model.stem}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            _command(kind, model, adapters, port),
            stdout=out, stderr=subprocess.STDOUT, env=environment(), start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            _end(process)


def environment() -> dict[str, str]:
    """Return an environment without a network and with few threads; 1 GiB is vLLM's cache."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": "",
    }


def _command(kind: str, model: Path, adapters: Mapping[str, Path], port: int) -> list[str]:
    if kind == LLAMA_CPP:
        python = [str(SERVED / "bin" / "python"), "-m", "llama_cpp.server", "--model", str(model)]
        return [*python, "--port", str(port), "--logits_all", "true", "--n_ctx", "512"]
    if kind == TRANSFORMERS:
        serve = [str(SERVED / "bin" / "transformers"), "serve", str(model), "--port", str(port)]
        return [*serve, "--host", "127.0.0.1", "--dtype", "float32", "--device", "cpu"]
    command = [str(SERVED / "bin" / "vllm"), "serve", str(model), "--served-model-name", "base"]
    command += ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4"]
    command += ["--enable-lora", "--max-lora-rank", "8", "--lora-modules"]
    return command + [f"{name}={path}" for name, path in adapters.items()]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}: {_tail(log)}")
        try:
            with urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                return
        except HTTPError:  # it listens; transformers cannot list models without a Hub's cache
            return
        except (URLError, OSError):
            time.sleep(1)
    raise RuntimeError(f"no answer in {STARTING:.0f} seconds: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text("utf-8", errors="replace")[-2000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    time.sleep(1)
