"""Requests by chance that a Hub has to bear, and cards that poison its lists."""

import json
import socket

import commits
import pygit2

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


HUGE = {
    "decimal": "9" * 6000,
    "hexadecimal": "0x" + "f" * 6000,
    "octal": "0" + "7" * 6000,
    "binary": "0b" + "1" * 60_000,
    "base 60": "1" + ":59" * 60_000,
    "base 60, a fraction": "1" + ":59" * 60_000 + ".5",
}
ODD = {
    "an empty number": '!!int ""',
    "a number of text": "!!int x",
    "no truth": "!!bool perhaps",
    "no date": "!!timestamp yesterday",
    "a date before all": "0001-01-01T00:00:00+23:59",
    "a date that is none": "2025-99-99",
    "a float of nothing": '!!float ""',
    "binary": "!!binary x",
    "an unknown tag": "!!python/name:os.system x",
    "pairs of nothing": "!!pairs x",
    "many keys": "{" + ",".join(f"k{n}: 0" for n in range(40_000)) + "}",
}


def card(value):
    return f"---\nlicense: mit\nnumber: {value}\n---\n"


def stored(root, repo_id, text):
    """Put a card into a repository as git itself would, unchecked."""
    git = pygit2.Repository(str(root / "models" / repo_id / ".git"))
    tree = git.TreeBuilder(git.revparse_single("main").tree)
    tree.insert("README.md", git.create_blob(text.encode()), pygit2.enums.FileMode.BLOB)
    who = pygit2.Signature("x", "x@localhost")
    parents = [git.revparse_single("main").id]
    git.create_commit("refs/heads/main", who, who, "card", tree.write(), parents)
