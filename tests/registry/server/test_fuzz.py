"""Requests that no client sends: each is answered as the caller's error, not the server's."""

import json
import random
import socket
import subprocess

import commits
import pytest

pytestmark = pytest.mark.slow

SEED, ROUNDS = 0, 1500
TEXTS = [
    "", "main", "v1", "feat%2Fx", "..", "%2e%2e", "%2F", "%2fetc%2fpasswd", "%00", "main%00x",
    "%ff", "%",
    "%ud800", "%ed%a0%80", "a" * 3000, "0" * 40, "f" * 39, "refs%2Fheads%2Fmain", "HEAD", "HEAD~1",
    "@{-1}",
    "main^{tree}", ":README.md", "a.txt", "dir", "dir%2Fb", "link", "-x", "*", "%E2%80%AE",
    "%0d%0aX: y", " ",
    "refs%2F..%2F..%2Fconfig", "..%2f..%2f.git%2fconfig", ".git%2Fconfig", "'\"<>",
    "99999999999999999999",
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", "main", "a\0b",
    "\ud800",
    "x" * 5000, "../..", [], {}, [[]], [None], {"a": {}}, ["main"], "0" * 40, "0" * 64,
    [{"path": "a"}],
    [{"path": "a", "size": 1}], [{"oid": "0" * 64, "size": 1}], "upload", "model", "ann/model",
    "ann",
]  # fmt: skip
KEYS = [
    "name", "organization", "type", "private", "visibility", "gated", "fromRepo", "toRepo",
    "content",
    "repoType", "files", "gitIgnore", "objects", "operation", "oid", "size", "tag", "message",
    "startingPoint", "paths", "expand", "emptyBranch", "key", "value",
]  # fmt: skip
QUERY = ["recursive", "expand", "limit", "cursor", "p", "blobs", "filter", "search", "author",
         "sort", "full", "create_pr", "size", "expires", "signature", "include_prs"]  # fmt: skip
ROUTES = [
    ("GET", "/api/whoami-v2"), ("POST", "/api/repos/create"), ("POST", "/api/repos/move"),
    ("POST", "/api/validate-yaml"), ("GET", "/api/models"), ("GET", "/api/{}"),
    ("GET", "/api/models/{}"),
    ("GET", "/api/models/{}/{}"), ("GET", "{m}/revision/{}"), ("GET", "{m}/tree/{}"),
    ("GET", "{m}/tree/{}/{}"), ("POST", "{m}/paths-info/{}"), ("GET", "{m}/commits/{}"),
    ("GET", "{m}/refs"),
    ("POST", "{m}/branch/{}"), ("DELETE", "{m}/branch/{}"), ("POST", "{m}/tag/{}"),
    ("DELETE", "{m}/tag/{}"), ("PUT", "{m}/settings"), ("POST", "{m}/preupload/{}"),
    ("POST", "{m}/commit/{}"), ("GET", "/ann/model/resolve/{}/{}"),
    ("HEAD", "/ann/model/resolve/main/{}"),
    ("GET", "/ann/model/raw/main/{}"), ("GET", "/{}/{}/resolve/{}/{}"), ("PATCH", "/{}"),
    ("GET", "/{}/{}"),
    ("POST", "/ann/model.git/info/lfs/objects/batch"),
    ("PUT", "/ann/model.git/info/lfs/objects/{}"),
    ("POST", "/ann/model.git/info/lfs/objects/verify"),
    ("POST", "/{}/{}.git/info/lfs/objects/batch"),
    ("GET", "{m}/discussions/{}"), ("GET", "/datasets/{}/{}/resolve/main/{}"),
]  # fmt: skip


def body(dice):
    keys = dice.sample(KEYS, dice.randint(0, 5))
    value = {key: dice.choice(VALUES) for key in keys}
    kind = dice.randrange(6)
    if kind == 0:
        return dice.randbytes(dice.randint(0, 300))
    if kind == 1:
        operations = ["header", "file", "lfsFile", "deletedFile", "deletedFolder", "x"]
        pairs = [(dice.choice(operations), dice.choice([value, *VALUES])) for _ in range(3)]
        return commits.payload(*pairs, summary=dice.choice(VALUES)).encode()
    if kind == 2:
        return b"&".join(f"{key}={dice.choice(TEXTS)}".encode() for key in keys)
    return json.dumps(value if kind > 3 else dice.choice(VALUES)).encode()


def address(dice, template):
    path = template.replace("{m}", "/api/models/ann/model")
    while "{}" in path:
        path = path.replace("{}", dice.choice(TEXTS), 1)
    names = dice.sample(QUERY, dice.randint(0, 3))
    query = "&".join(f"{name}={dice.choice(TEXTS)}" for name in names)
    return (path + (f"?{query}" if query else "")).replace(" ", "%20")


def exchange(server, method, target, headers, content):
    """Send a request as it is: a client library would correct it."""
    host = ("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(content)}")
    with socket.create_connection(host, timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + content)
        answer = b""
        while data := connection.recv(1 << 16):
            answer += data
    return int(answer.split()[1]), answer


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
