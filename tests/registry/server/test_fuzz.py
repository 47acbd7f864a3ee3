"""Requests that no client sends: each is answered as the caller's error, not the server's."""

import random
import subprocess

import commits
import pytest
from probes import ROUTES, TEXTS, address, body, exchange

pytestmark = pytest.mark.slow

SEED, ROUNDS = 0, 1500


def test_no_request_is_the_servers_error(server, ann, root):
    operations = [("file", commits.file(path)) for path in ("a.txt", "dir/b", "README.md")]
    assert commits.post(ann, *operations).status_code == 200
    dice, seen = random.Random(SEED), set()
    tokens = [server.token("ann")] * 4 + [server.token("bob"), "x"]
    for _ in range(ROUNDS):
        method, template = dice.choice(ROUTES)
        target, content = address(dice, template), body(dice)
        headers = [f"Authorization: Bearer {dice.choice(tokens)}"] if dice.random() < 0.9 else []
        headers.append(f"Range: bytes={dice.choice(TEXTS[:8])}-{dice.randint(0, 9)}")
        if dice.random() < 0.3:
            headers.append("Content-Type: application/json")
        status, answer = exchange(server, method, target, headers, content)
        assert status < 500 or status == 501, (method, target, content, answer)
        assert b"root:" not in answer
        assert b"repositoryformatversion" not in answer
        seen.add(status)
    assert {200, 400, 401, 403, 404} <= seen
    assert ann.get("/api/models").status_code == 200
    for repository in (root / "models").glob("*/*"):
        check = ["git", "-C", str(repository), "fsck", "--strict", "--no-dangling"]
        assert subprocess.run(check, capture_output=True).returncode == 0
    assert {path.name for path in root.iterdir()} <= {
        "models", "datasets", "spaces", "staging", "tokens", "accounts.json", ".lock",
    }  # fmt: skip


@pytest.mark.parametrize(
    "target",
    ["/ann/model/resolve/main/../../../../etc/passwd", "/../../etc/passwd", "//etc/passwd",
     "/api/../..",
     "/ann/model/resolve/main/%2e%2e/%2e%2e/.git/config", "/ann/model/resolve/main//a.txt",
     "/ann/model/resolve/../../.git/config", "/..%2f../model/resolve/main/a",
     "/ann/..%2f/resolve/main/a",
     "/ann/model/.git/config", "/tokens/ann", "/models/ann/model/.git/config", "/staging/x", "*",
     "/api/models/..%2f..%2ftokens/ann", "/api/models/%2e%2e/tokens"],
)  # fmt: skip
def test_no_address_leads_out_of_a_repository(server, ann, target):
    status, answer = exchange(
        server, "GET", target, [f"Authorization: Bearer {server.token('ann')}"], b""
    )
    assert status in {400, 404, 405}, answer
    assert server.token("ann").encode() not in answer


def test_headers_are_bounded(server, ann):
    try:
        status, _ = exchange(server, "GET", "/api/models", [f"X: {'x' * 200_000}"], b"")
    except ConnectionError:  # it hung up before all of it was sent
        status = 400
    assert status == 400
    assert ann.get("/api/models").status_code == 200
