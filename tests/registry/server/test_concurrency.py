"""Many at once, and a server that is killed: what was acknowledged is there, in one line."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import commits
import hub
import pytest
from ftplug_registry.client import transport
from ftplug_registry.server.embedded import EmbeddedHub
from ftplug_registry.server.handlers.commits import PendingCommit
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

httpx = transport()
pytestmark = pytest.mark.slow

WRITERS, COMMITS = 8, 10


def history(root, repo="ann/model"):
    done = subprocess.run(
        ["git", "-C", str(root / "models" / repo), "log", "--format=%H %P", "main"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.split() for line in done.stdout.splitlines()]


def fsck(root, repo="ann/model"):
    done = subprocess.run(
        ["git", "-C", str(root / "models" / repo), "fsck", "--strict", "--full", "--no-dangling"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_eight_writers_lose_nothing(server, api, repo, root):
    """Half of them insist on their parent and try again on 412, as careful clients do."""
    refused = []

    def write(writer):
        own = HfApi(server.endpoint, token=server.token("ann"))
        made = []
        while len(made) < COMMITS:
            parent = own.repo_info(repo).sha if writer % 2 else None
            name = f"{writer}/{len(made)}.txt"
            try:
                done = own.upload_file(
                    path_or_fileobj=name.encode(), path_in_repo=name, repo_id=repo,
                    parent_commit=parent,
                )  # fmt: skip
            except HfHubHTTPError as error:
                refused.append(error.response.status_code)
            else:
                made.append((done.oid, name))
        return made

    with ThreadPoolExecutor(WRITERS) as pool:
        made = [one for writer in pool.map(write, range(WRITERS)) for one in writer]
    assert set(refused) <= {412}
    found = history(root)
    assert len(made) == WRITERS * COMMITS == len({oid for oid, _ in made})
    assert {oid for oid, _ in made} == {oid for oid, *_ in found[:-1]}
    assert [parents for _, *parents in found] == [[oid] for oid, *_ in found[1:]] + [[]]  # one line
    assert {name for _, name in made} <= set(api.list_repo_files(repo))
    fsck(root)


def test_one_of_many_equal_parents_wins(ann, http):
    parent = ann.get("/api/models/ann/model").json()["sha"]

    def write(i):
        operation = ("file", commits.file(f"{i}.txt"))
        return commits.post(ann, operation, parentCommit=parent).status_code

    with ThreadPoolExecutor(WRITERS) as pool:
        statuses = sorted(pool.map(write, range(WRITERS)))
    assert statuses == [200] + [412] * (WRITERS - 1)


def test_create_delete_move_and_use_at_once(server, http, root):
    """Every answer is one that a lone client could get; none is a server's error."""
    stop, seen = time.monotonic() + 3, set()
    small = ("file", commits.file("a"))

    def work(i):
        client = http("ann")
        id = f"ann/{'ab'[i % 2]}"
        requests = (
            lambda: client.post("/api/repos/create", json={"name": id[4:]}),
            lambda: commits.post(client, small, repo=id),
            lambda: client.get(f"/api/models/{id}?blobs=1"),
            lambda: client.get("/api/models?full=1"),
            lambda: client.get(f"/{id}/resolve/main/a"),
            lambda: client.post(f"/api/models/{id}/branch/x", json={}),
            lambda: client.delete(f"/api/models/{id}/branch/x"),
            lambda: client.put(f"/api/models/{id}/settings", json={"private": bool(i % 2)}),
            lambda: client.post("/api/repos/move", json={"fromRepo": "ann/a", "toRepo": "ann/b"}),
            lambda: client.request("DELETE", "/api/repos/delete", json={"name": id[4:]}),
        )
        step = i
        while time.monotonic() < stop:
            response = requests[step % len(requests)]()
            seen.add(response.status_code)
            assert response.status_code < 500, (response.request.url, response.text)
            step += 1 + step // 7 % 3
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        assert all(pool.map(work, range(WRITERS)))
    assert {200, 404, 409} <= seen
    assert list((root / "staging").iterdir()) == []
    for repository in (root / "models/ann").iterdir():
        fsck(root, f"ann/{repository.name}")


@pytest.mark.parametrize(("replaced", "status"), [(True, 404), (False, 500)])
def test_what_is_created_anew_in_mid_request_is_not_found(ann, http, monkeypatch, replaced, status):
    def fails(self, path, value):
        if replaced:
            other, name = http("ann"), {"name": "model"}
            other.request("DELETE", "/api/repos/delete", json=name).raise_for_status()
            other.post("/api/repos/create", json=name).raise_for_status()
        raise OSError("no such file, as between the two")

    monkeypatch.setattr(PendingCommit, "_blob", fails)
    assert commits.post(ann, ("file", commits.file("a"))).status_code == status


def test_slow_clients_hold_nobody_up(ann, http):
    """More uploads that never end than the server has threads."""
    release = threading.Event()

    def slow():
        yield commits.payload().encode() + b"\n"
        release.wait(60)

    with ThreadPoolExecutor(20) as pool:
        url = "/api/models/ann/model/commit/main"
        slow_ones = [pool.submit(http("ann").post, url, content=slow()) for _ in range(20)]
        start = time.perf_counter()
        for i in range(5):
            assert commits.post(ann, ("file", commits.file(f"{i}"))).status_code == 200
        taken = time.perf_counter() - start
        release.set()
        assert {one.result().status_code for one in slow_ones} == {200}
    assert taken < 20


def test_a_killed_server_keeps_what_it_acknowledged(tmp_path):
    """Kill it again and again in the middle of commits; a stale lock of git's stops nobody."""
    root, acknowledged = tmp_path / "root", []
    for attempt in range(3):
        with serving(root) as (process, endpoint):
            token = (root / "tokens/ann").read_text()
            with ThreadPoolExecutor(4) as pool:
                for i in range(4):
                    pool.submit(commit_until_dead, endpoint, token, f"{attempt}-{i}", acknowledged)
                goal, deadline = len(acknowledged) + 15, time.monotonic() + 60
                while len(acknowledged) < goal and time.monotonic() < deadline:
                    time.sleep(0.01)
                process.kill()
        assert len(acknowledged) >= goal
        fsck(root)
        (root / "models/ann/model/.git/refs/heads/main.lock").touch()  # as a kill may leave it
        (root / "staging/left-over").touch()
    found = history(root)
    assert set(acknowledged) <= {oid for oid, *_ in found}
    assert [parents for _, *parents in found] == [[oid] for oid, *_ in found[1:]] + [[]]
    with EmbeddedHub(root) as server, hub.client(server, None, home=tmp_path) as api:
        assert api.repo_info("ann/model").sha == found[0][0]
        assert list((root / "staging").iterdir()) == []


class serving:
    """Run ``ftplug serve`` in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self):
        command = [sys.executable, "-m", "ftplug", "serve", "--port", "0", "--account", "ann"]
        self.process = subprocess.Popen(
            [*command, "--root", str(self.root)], stdout=subprocess.PIPE, text=True
        )
        for line in self.process.stdout:
            if "HF_ENDPOINT=" in line:
                endpoint = line.strip().partition("=")[2]
            if "HF_TOKEN_PATH=" in line:
                break
        return self.process, endpoint

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def commit_until_dead(endpoint, token, name, acknowledged):
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=endpoint, headers=headers, trust_env=False, verify=False) as client:
        try:
            client.post("/api/repos/create", json={"name": "model"})
            for i in range(10_000):
                content = os.urandom(20_000)
                response = commits.post(client, ("file", commits.file(f"{name}-{i % 5}", content)))
                acknowledged.append(response.json()["commitOid"])
        except (httpx.HTTPError, ValueError):
            return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path, number):
    with serving(tmp_path / "root") as (process, endpoint):
        assert httpx.get(f"{endpoint}/api/models", trust_env=False).json() == []
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
