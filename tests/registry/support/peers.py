"""Other people's programs that speak the Hub's protocol: olah, npm's client, and the hf command.

``make test`` installs them below ``.venv``; FTPLUG_OLAH and FTPLUG_NPM name other places.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ftplug_registry.client import transport

VENV = Path(__file__).parents[3] / ".venv"
OLAH = Path(os.environ.get("FTPLUG_OLAH", VENV / "olah")) / "bin/olah-cli"
NPM = Path(os.environ.get("FTPLUG_NPM", VENV / "npm"))
HF = Path(sys.executable).with_name("hf")

needs_olah = pytest.mark.skipif(not OLAH.exists(), reason=f"olah is not at {OLAH}: make peers")
needs_npm = pytest.mark.skipif(
    not (shutil.which("node") and (NPM / "node_modules/@huggingface/hub").exists()),
    reason=f"needs node, and @huggingface/hub in {NPM}: make peers",
)


@contextmanager
def olah(root: Path, work: Path) -> Iterator[str]:
    """Serve the repositories of a Hub's root folder with olah; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    work.mkdir()
    settings = f"""
        [basic]
        host = "127.0.0.1"
        port = {port}
        repos-path = "{work}/cache"
        mirrors-path = ["{root}"]
        [accessibility]
        offline = true
    """
    (work / "olah.toml").write_text(settings)
    command = [str(OLAH), "--config", str(work / "olah.toml"), "--log-path", str(work / "logs")]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (work / "output").open("w") as output:
        process = subprocess.Popen(
            command, cwd=work, env=own, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(port, process, work / "output")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, process: subprocess.Popen, output: Path) -> None:
    httpx, deadline = transport(), time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"olah does not answer: {output.read_text()}")
