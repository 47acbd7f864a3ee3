"""``ftplug serve`` as a user meets it, and starting and stopping in general."""

import builtins
import gc
import os
import re
import socket
import subprocess
import sys
import threading
import time

import hub
import psutil
import pytest
from ftplug_registry.server.accounts import Account
from ftplug_registry.server.embedded import EmbeddedHub

from ftplug.errors import RegistryError

SERVE = [sys.executable, "-m", "ftplug", "serve"]


def refused(*arguments):
    """Return the one line on stderr with which the command ends."""
    done = subprocess.run(
        [*SERVE, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, ""), done
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("ftplug: ")
    return done.stderr


def test_it_says_what_to_export_and_serves_that(tmp_path):
    root = tmp_path / "root"
    command = [
        *SERVE,
        "--root",
        str(root),
        "--port",
        "0",
        "--account",
        "ann:lab",
        "--account",
        "bob",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stdout.readline() for _ in range(7)]
        exports = [line.split("#")[0].split()[1] for line in lines if line.startswith("  export")]
        variables = dict(line.split("=", 1) for line in exports[:2])
        assert [name.partition("=")[0] for name in exports] == ["HF_ENDPOINT"] + [
            "HF_TOKEN_PATH"
        ] * 2
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("HF_")
        }
        who = "import huggingface_hub as h; h.create_repo('lab/x'); print(h.whoami()['name'])"
        done = subprocess.run(
            [sys.executable, "-c", who],
            env=inherited | hub.NO_PROXY | variables | {"HF_HOME": str(tmp_path)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout == "ann\n", done.stderr
        token = (root / "tokens/ann").read_text()
        process.terminate()
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert token not in "".join(lines) + rest + errors
    [line] = errors.splitlines()  # who changed what, and when
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}[+-]\d{4} ann: create lab/x \(public\)", line)


def test_help_teaches_without_loading_a_server():
    done = subprocess.run([*SERVE, "--help"], capture_output=True, text=True, check=True)
    for text in ("Example: ftplug serve", "--root", "--port", "--account", "HF_ENDPOINT"):
        assert text in done.stdout
    assert "--insecure-lan" in done.stdout
    loaded = (
        "import sys, ftplug_registry.server.command; print([n for n in ('starlette', 'uvicorn', "
    )
    loaded += "'pygit2', 'huggingface_hub', 'yaml') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_what_cannot_be_served(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused("--root", tmp_path / "root", "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}: " in line
    (tmp_path / "file").touch()
    assert "cannot serve from" in refused("--root", tmp_path / "file" / "root", "--port", 0)
    assert "account" in refused("--root", tmp_path / "root", "--account", "../x")
    assert "--insecure-lan" in refused("--root", tmp_path / "root", "--host", "192.168.1.5")


def test_one_server_a_root(tmp_path):
    with EmbeddedHub(tmp_path) as first:
        with pytest.raises(RegistryError, match="another ftplug serve uses"), EmbeddedHub(tmp_path):
            pass
        assert "another ftplug serve uses" in refused("--root", tmp_path, "--port", 0)
        assert first.running
    with EmbeddedHub(tmp_path) as again:
        assert again.running


def test_it_listens_on_this_machine_alone(tmp_path):
    with pytest.raises(RegistryError, match=r"listens on 127\.0\.0\.1 alone"):
        EmbeddedHub(tmp_path, host="0.0.0.0")


def test_it_stops_promptly_and_leaves_nothing_behind(tmp_path):
    gc.collect()  # what earlier tests left open
    threads, descriptors = set(threading.enumerate()), psutil.Process().num_fds()
    for _ in range(3):
        with EmbeddedHub(tmp_path) as server, hub.client(server, home=tmp_path / "home") as api:
            api.create_repo("local/x", exist_ok=True)
            start = time.perf_counter()
        assert time.perf_counter() - start < 8
        assert not server.running
    assert set(threading.enumerate()) <= threads
    assert psutil.Process().num_fds() <= descriptors
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(server.endpoint.rpartition(":")[2])))


def test_an_open_request_does_not_keep_it_from_stopping(tmp_path, monkeypatch):
    monkeypatch.setattr("ftplug_registry.server.embedded.GRACE", 1)
    with EmbeddedHub(tmp_path) as server:
        address = ("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
        connection = socket.create_connection(address)
        connection.sendall(
            b"POST /api/validate-yaml HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        )
        time.sleep(0.2)
        start = time.perf_counter()
    assert time.perf_counter() - start < 10
    connection.close()


def test_an_error_inside_the_block_passes_through(tmp_path):
    with pytest.raises(KeyError, match="mine"), EmbeddedHub(tmp_path):
        raise KeyError("mine")
    with EmbeddedHub(tmp_path):
        pass


@pytest.mark.parametrize("missing", ["uvicorn", "pygit2"])
def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch, missing):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    line = rf"needs {missing}: pip install 'ftplug\[serve\]'"
    with pytest.raises(RegistryError, match=line), EmbeddedHub(tmp_path / "root"):
        pass
    assert not (tmp_path / "root").exists()


def test_accounts_from_the_command_line():
    assert Account.parse("ann") == Account("ann")
    assert Account.parse("ann:lab,team") == Account("ann", ("lab", "team"))
