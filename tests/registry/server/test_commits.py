"""What a commit request may say, and what is left where it may not: the old head."""

import base64
import hashlib
import json
import os
import subprocess

import commits
import pytest
from commits import git
from ftplug_registry.server.accounts import Account
from ftplug_registry.server.storage.repository import RepoId, Repository
from starlette.exceptions import HTTPException

LARGE = b"x" * 5000
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


def head(client, repo="ann/model"):
    return client.get(f"/api/models/{repo}").json()["sha"]


def names(client, repo="ann/model"):
    return [file["rfilename"] for file in client.get(f"/api/models/{repo}").json()["siblings"]]


BAD_PATHS = [
    "", "/", "/etc/passwd", "../x", "a/../../x", "a/..", "./x", "a/./x", "a//x", "a/", "..", ".",
    ".git/config", "a/.git", ".GIT/x", ".git ", ".git.", "git~1", "GIT~1/x", ".g\u200cit/x",
    ".git::$INDEX_ALLOCATION/x", "a\\b", "a\x00b", "a\nb", "a\x7fb", "\ud800", "x" * 256,
    "d/" * 100 + "x", "x/" + "y" * 1100, ".gitmodules", "a/.GitModules", ".GITATTRIBUTES",
    "GITMOD~1", "gi7eba~1", None, 1, ["a"], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: ascii(path)[:30])
def test_paths_that_leave_the_repository_or_confuse_git(ann, path):
    before = head(ann)
    operations = [
        ("file", {**commits.file("x"), "path": path}),
        ("deletedFile", {"path": path}),
        ("lfsFile", {"path": path, "algo": "sha256", "oid": "0" * 64, "size": 1}),
    ]
    for operation in operations:
        assert commits.post(ann, operation).status_code == 400
    preupload = json.dumps({"files": [{"path": path, "size": 1, "sample": ""}]})
    assert ann.post("/api/models/ann/model/preupload/main", content=preupload).status_code == 400
    assert head(ann) == before


def test_good_paths(ann):
    good = ["a", "ü/ñ.txt", "..a", "a..b/c", ".gitignore", ".gitattributes", "sp ace/#%?.txt", ".x"]
    assert commits.post(ann, *(("file", commits.file(path)) for path in good)).status_code == 200
    assert sorted(names(ann)) == sorted(good)


def test_files_and_folders_do_not_replace_each_other(ann):
    assert commits.post(ann, ("file", commits.file("a/b"))).status_code == 200
    before = head(ann)
    for path in ("a", "a/b/c"):
        response = commits.post(ann, ("file", commits.file(path)))
        assert response.status_code == 400
        assert path in response.json()["error"]
    assert head(ann) == before
    replace = [("deletedFolder", {"path": "a/"}), ("file", commits.file("a"))]
    assert commits.post(ann, *replace).status_code == 200
    assert names(ann) == [".gitattributes", "a"]


@pytest.mark.parametrize(
    "operation",
    [
        ("deletedFile", {"path": "absent"}),
        ("deletedFile", {"path": "a"}),
        ("deletedFile", {"path": "a/b/c"}),
        ("deletedFolder", {"path": "absent"}),
        ("deletedFolder", {"path": "a/b"}),
    ],
)
def test_what_is_not_there_cannot_be_deleted(ann, operation):
    assert commits.post(ann, ("file", commits.file("a/b"))).status_code == 200
    response = commits.post(ann, operation)
    assert response.status_code == 404
    assert response.headers["X-Error-Code"] == "EntryNotFound"


def test_folders_go_with_their_last_file(ann):
    assert commits.post(ann, ("file", commits.file("a/b/c/d"))).status_code == 200
    assert commits.post(ann, ("deletedFile", {"path": "a/b/c/d"})).status_code == 200
    tree = ann.get("/api/models/ann/model/tree/main?recursive=1").json()
    assert [item["path"] for item in tree] == [".gitattributes"]


MALFORMED = [
    b"", b"\n\n", b"{", b"[]", b"null", b"\xff\xfe", b'{"key":"header"}',
    b'{"key":"header","value":[]}',
    b"[" * 50_000, b'{"key":"header","value":{"summary":' + b"9" * 5000 + b"}}",
    b'{"key":"file","value":{"path":"a","content":"","encoding":"base64"}}',
]  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:30]))
def test_malformed_payloads(ann, body):
    before = head(ann)
    response = ann.post("/api/models/ann/model/commit/main", content=body)
    assert response.status_code == 400
    assert response.headers["X-Error-Message"] == response.json()["error"]
    assert head(ann) == before


@pytest.mark.parametrize(
    "header",
    [
        {"summary": ""}, {"summary": None}, {"summary": 1}, {"summary": "a\0b"},
        {"summary": "x" * 100_000}, {"summary": "\ud800"}, {"description": ["x"]},
        {"parentCommit": "main"}, {"parentCommit": "abc"}, {"parentCommit": 5},
        {"parentCommit": "0" * 41},
    ],
    ids=str,
)  # fmt: skip
def test_malformed_headers(ann, header):
    response = commits.post(ann, ("file", commits.file("a")), **header)
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file", {"path": "a", "content": "%%%", "encoding": "base64"}),
        ("file", {"path": "a", "content": "YQ", "encoding": "base64"}),
        ("file", {"path": "a", "content": 1, "encoding": "base64"}),
        ("file", {"path": "a", "content": "text", "encoding": "utf-8"}),
        ("file", {"path": "a"}),
        ("lfsFile", {"path": "a", "algo": "md5", "oid": "0" * 64}),
        ("lfsFile", {"path": "a", "algo": "sha256", "oid": "../../../../x"}),
        ("lfsFile", {"path": "a", "algo": "sha256", "oid": "0" * 64, "size": 1}),
        ("header", {"summary": "a second one"}),
        ("symlink", {"path": "a", "target": "/etc/passwd"}),
        (None, {"path": "a"}),
        (["file"], {"path": "a"}),
        ("file", commits.file("README.md", b"---\ntags: {}\n---\n")),
        ("file", commits.file(".gitattributes", b"x" * 3000)),
        ("file", commits.file("sub/.gitattributes", b"x" * 3000)),
    ],
    ids=str,
)
def test_malformed_operations_leave_the_old_head(ann, key, value):
    before = head(ann)
    response = commits.post(ann, ("file", commits.file("good")), (key, value))
    assert response.status_code == 400
    assert head(ann) == before


def test_the_parent_is_checked_before_the_files_come_and_again_at_the_end(ann):
    old = head(ann)
    assert commits.post(ann, ("file", commits.file("a")), parentCommit=old).status_code == 200
    new = head(ann)
    for parent in (old, old[:5], "0" * 40):
        response = commits.post(ann, ("file", commits.file("b")), parentCommit=parent)
        assert response.status_code == 412
        assert "A commit has happened since" in response.json()["error"]

    def late():
        header, operation = commits.payload(("file", commits.file("b")), parentCommit=new).split(
            "\n"
        )
        yield f"{header}\n".encode()
        assert commits.post(ann, ("file", commits.file("between"))).status_code == 200
        yield operation.encode()

    response = ann.post("/api/models/ann/model/commit/main", content=late())
    assert response.status_code == 412
    assert names(ann) == [".gitattributes", "a", "between"]


def test_a_commit_without_operations_is_the_head(ann):
    before = head(ann)
    response = commits.post(ann)
    assert response.status_code == 200
    assert response.json()["commitOid"] == before == head(ann)


def upload(client, content, repo="ann/model", oid=None, size=None):
    oid = oid or hashlib.sha256(content).hexdigest()
    item = {"oid": oid, "size": len(content) if size is None else size}
    request = {"operation": "upload", "transfers": ["basic"], "objects": [item]}
    answer = client.post(f"/{repo}.git/info/lfs/objects/batch", json=request)
    assert answer.status_code == 200, answer.text
    actions = answer.json()["objects"][0].get("actions")
    return actions and actions["upload"]["href"]


def lfs_file(content, path="large.bin"):
    oid = hashlib.sha256(content).hexdigest()
    return ("lfsFile", {"path": path, "algo": "sha256", "oid": oid, "size": len(content)})


def test_an_lfs_upload_needs_no_token_but_the_signed_address(ann, http):
    url, nobody = upload(ann, LARGE), http()
    for changed in (
        url.replace("size=5000", "size=5001"),
        url.replace("expires=", "expires=9"),
        url.replace("ann/model", "ann/other"),
        url.replace("signature=", "signature=0"),
        url.replace("objects/", "objects/0").replace("?", "?x=1&", 1),
        url.partition("?")[0],
        url.partition("?")[0] + "?size=-1&expires=x&signature=%ff",
    ):
        assert nobody.put(changed, content=LARGE).status_code == 403, changed
    assert nobody.put(url, content=LARGE).status_code == 200
    assert upload(ann, LARGE) is None  # it is here: nothing to do
    oid = hashlib.sha256(LARGE).hexdigest()
    verify = "/ann/model.git/info/lfs/objects/verify"
    assert ann.post(verify, json={"oid": oid, "size": 5000}).status_code == 200
    assert ann.post(verify, json={"oid": oid, "size": 5001}).status_code == 400
    assert commits.post(ann, lfs_file(LARGE)).status_code == 200
    got = nobody.get("/ann/model/resolve/main/large.bin")
    assert got.content == LARGE
    assert got.headers["ETag"] == f'"{oid}"'
    copy = (
        "lfsFile",
        {"path": "copy.bin", "algo": "sha256", "oid": oid},
    )  # as copies come: no size
    assert commits.post(ann, copy).status_code == 200
    assert nobody.get("/ann/model/resolve/main/copy.bin").content == LARGE


@pytest.mark.parametrize("sent", [b"", LARGE[:-1], LARGE + b"x", b"y" * 5000], ids=len)
def test_lfs_uploads_are_verified(server, ann, sent, root):
    url = upload(ann, LARGE)
    assert ann.put(url, content=sent).status_code == 400
    assert commits.post(ann, lfs_file(LARGE)).status_code == 400
    assert list((root / "staging").iterdir()) == []


def test_knowing_a_digest_gives_no_access_to_the_content(ann, http):
    bob = http("bob")
    assert bob.post("/api/repos/create", json={"name": "own"}).status_code == 200
    ann.put("/api/models/ann/model/settings", json={"private": True})
    assert ann.put(upload(ann, LARGE), content=LARGE).status_code == 200
    assert commits.post(ann, lfs_file(LARGE)).status_code == 200
    assert commits.post(bob, lfs_file(LARGE), repo="bob/own").status_code == 400
    pointer = POINTER.format(hashlib.sha256(LARGE).hexdigest(), len(LARGE)).encode()
    response = commits.post(bob, ("file", commits.file("a.bin", pointer)), repo="bob/own")
    assert response.status_code == 200
    assert bob.get("/bob/own/resolve/main/a.bin").content == pointer


def test_what_is_too_large(ann, server):
    assert commits.post(ann, ("file", commits.file("a", b"x" * 4097))).status_code == 413
    assert commits.post(ann, ("file", commits.file("a", b"x" * 4096))).status_code == 200
    many = [("file", {"path": "a", "content": "A" * (1 << 17), "encoding": "base64"})]
    assert commits.post(ann, *many).status_code == 413  # one line
    lines = b"\n" * (20 << 20)
    assert ann.post("/api/models/ann/model/commit/main", content=lines).status_code == 413
    endless = (b"\n" * (1 << 20) for _ in range(40))
    assert ann.post("/api/models/ann/model/commit/main", content=endless).status_code == 413
    huge = b'{"content": "' + b"x" * (5 << 20) + b'"}'
    assert ann.post("/api/validate-yaml", content=huge).status_code == 413
    item = {"oid": "0" * 64, "size": 6 << 30}
    request = {"operation": "upload", "objects": [item]}
    answer = ann.post("/ann/model.git/info/lfs/objects/batch", json=request).json()
    assert answer["objects"][0]["error"]["code"] == 413
    for size in (-1, 1.5, "1", None, True, 1 << 60):
        request = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": size}]}
        assert ann.post("/ann/model.git/info/lfs/objects/batch", json=request).status_code == 400
    files = [{"path": f"{i}", "size": 1} for i in range(1001)]
    response = ann.post("/api/models/ann/model/preupload/main", json={"files": files})
    assert response.status_code == 400


def test_preupload_tells_what_is_there(ann):
    assert commits.post(ann, ("file", commits.file("a.txt", b"hello\n"))).status_code == 200
    asked = [("a.txt", 6), ("a.txt", 5000), ("b.log", 1), ("c.bin", 4096), ("d.bin", 4097)]
    files = [{"path": path, "size": size, "sample": ""} for path, size in asked]
    request = {"files": files, "gitIgnore": "*.log\n"}
    answer = ann.post("/api/models/ann/model/preupload/main", json=request).json()["files"]
    assert [file["uploadMode"] for file in answer] == [
        "regular",
        "lfs",
        "regular",
        "regular",
        "lfs",
    ]
    assert [file["shouldIgnore"] for file in answer] == [False, False, True, False, False]
    blob = subprocess.run(["git", "hash-object", "--stdin"], input=b"hello\n", capture_output=True)
    oids = [blob.stdout.decode().strip(), None, None, None, None]
    assert [file.get("oid") for file in answer] == oids


def test_the_repositorys_own_gitignore_counts(ann):
    assert commits.post(ann, ("file", commits.file(".gitignore", b"*.tmp\n"))).status_code == 200
    files = [{"path": "a.tmp", "size": 1}, {"path": "a.txt", "size": 1}]
    answer = ann.post("/api/models/ann/model/preupload/main", json={"files": files}).json()
    assert [file["shouldIgnore"] for file in answer["files"]] == [True, False]


def test_links_and_submodules_that_git_brought_are_not_served(ann, http, root):
    assert commits.post(ann, ("file", commits.file("real/a.txt"))).status_code == 200
    repository = root / "models/ann/model"
    target = git(repository, "hash-object", "-w", "--stdin", input=b"/etc/passwd")
    sha = head(ann)
    listing = git(repository, "ls-tree", sha)
    listing += f"\n120000 blob {target}\tlink\n160000 commit {sha}\tsub\n"
    tree = git(repository, "mktree", "--missing", input=listing.encode())
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    made = git(repository, *identity, "commit-tree", tree, "-p", sha, "-m", "by git")
    git(repository, "update-ref", "refs/heads/main", made)
    assert names(ann) == [".gitattributes", "real/a.txt"]
    assert "link" not in ann.get("/api/models/ann/model/tree/main").text
    for path in ("link", "sub", "link/x", "sub/real/a.txt"):
        response = ann.get(f"/ann/model/resolve/main/{path}")
        assert (response.status_code, response.headers["X-Error-Code"]) == (404, "EntryNotFound")
    asked = {"paths": ["link", "sub", "real"]}
    found = ann.post("/api/models/ann/model/paths-info/main", json=asked).json()
    assert [item["path"] for item in found] == ["real"]
    assert commits.post(ann, ("file", commits.file("link/x"))).status_code == 400
    assert commits.post(ann, ("file", commits.file("b"))).status_code == 200
    assert "120000" in git(repository, "ls-tree", head(ann), "link")  # and are not lost either
    assert commits.post(ann, ("file", commits.file("link", b"now a file"))).status_code == 200
    assert ann.get("/ann/model/resolve/main/link").content == b"now a file"


def test_executables_stay_so(ann, root):
    repository = root / "models/ann/model"
    blob = git(repository, "hash-object", "-w", "--stdin", input=b"#!/bin/sh\n")
    tree = git(repository, "mktree", input=f"100755 blob {blob}\trun.sh\n".encode())
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    made = git(repository, *identity, "commit-tree", tree, "-p", head(ann), "-m", "by git")
    git(repository, "update-ref", "refs/heads/main", made)
    assert commits.post(ann, ("file", commits.file("run.sh", b"#!/bin/bash\n"))).status_code == 200
    assert git(repository, "ls-tree", head(ann)).startswith("100755")


def test_git_finds_nothing_wrong(ann, root):
    content = base64.b64encode(bytes(range(256))).decode()
    for i in range(3):
        value = {"path": f"a/{i}/é.bin", "content": content, "encoding": "base64"}
        assert commits.post(ann, ("file", value), summary=f"Ünï {i}\n\nbody").status_code == 200
    tag = {"tag": "v1", "message": "annotated"}
    assert ann.post("/api/models/ann/model/tag/main", json=tag).status_code == 200
    assert ann.put(upload(ann, LARGE), content=LARGE).status_code == 200
    assert commits.post(ann, lfs_file(LARGE), ("deletedFolder", {"path": "a/0"})).status_code == 200
    done = subprocess.run(
        ["git", "-C", str(root / "models/ann/model"), "fsck", "--strict", "--full"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.replace("notice: HEAD", "")) == (0, "", "")


def test_ranges(ann, http):
    content = os.urandom(200)
    assert commits.post(ann, ("file", commits.file("small", content))).status_code == 200
    large = os.urandom(5120)
    assert ann.put(upload(ann, large), content=large).status_code == 200
    assert commits.post(ann, lfs_file(large, "large")).status_code == 200
    for name, data in (("small", content), ("large", large)):
        url, size = f"/ann/model/resolve/main/{name}", len(data)

        def ranged(value, **headers):
            return http().get(url, headers={"Range": value} | headers)  # noqa: B023

        for value, (first, stop) in {
            "bytes=0-0": (0, 1), "bytes=10-19": (10, 20), "bytes=10-": (10, size),
            "bytes=-7": (size - 7, size), "bytes=-99999": (0, size), "bytes=0-99999": (0, size),
            f"bytes={size - 1}-": (size - 1, size),
        }.items():  # fmt: skip
            response = ranged(value)
            assert (response.status_code, response.content) == (206, data[first:stop])
            assert response.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{size}"
        for value in ("bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "items=0-1", "bytes=a-b"):
            response = ranged(value)
            assert (response.status_code, response.content) == (200, data)
        for value in (f"bytes={size}-", "bytes=99999-", "bytes=-0"):
            response = ranged(value)
            assert response.status_code == 416
            assert response.headers["Content-Range"] == f"bytes */{size}"
        etag = http().head(url).headers["ETag"]
        assert ranged("bytes=0-0", **{"If-Range": etag}).status_code == 206
        assert ranged("bytes=0-0", **{"If-Range": '"old"'}).status_code == 200
        assert http().head(url).headers["Content-Length"] == str(size)


def test_json_requests_of_any_shape_are_refused(ann):
    shapes = [b"", b"[]", b"1", b'"x"', b"{", b"[" * 10_000, json.dumps({"files": 1}).encode()]
    for body in shapes:
        for method, url in (
            ("POST", "/api/repos/create"), ("DELETE", "/api/repos/delete"),
            ("POST", "/api/repos/move"),
            ("POST", "/api/validate-yaml"), ("POST", "/api/models/ann/model/preupload/main"),
            ("POST", "/ann/model.git/info/lfs/objects/batch"),
            ("POST", "/ann/model.git/info/lfs/objects/verify"),
            ("POST", "/api/models/ann/model/tag/main"),
        ):  # fmt: skip
            response = ann.request(method, url, content=body)
            assert response.status_code in {400, 501}, (method, url, body[:20], response.text)


def test_a_branch_that_git_itself_moved_is_not_overwritten(ann, root):
    """The ref is compared and swapped: also a writer without our lock loses nothing."""
    repository = Repository(RepoId("models", "ann", "model"), root / "models/ann/model")
    old = repository.refs.branch_head("main")
    assert commits.post(ann, ("file", commits.file("a"))).status_code == 200
    with pytest.raises(HTTPException, match="412"):
        repository.add_commit("main", [old], old.tree.id, "late", Account("ann"))
    assert names(ann) == [".gitattributes", "a"]


def test_a_damaged_object_is_an_error_without_details(ann, root):
    assert commits.post(ann, ("file", commits.file("a", b"content"))).status_code == 200
    blob = ann.get("/ann/model/resolve/main/a").headers["ETag"].strip('"')
    damaged = root / f"models/ann/model/.git/objects/{blob[:2]}/{blob[2:]}"
    damaged.chmod(0o600)
    damaged.write_bytes(b"x")
    response = ann.get("/ann/model/resolve/main/a")
    assert response.status_code == 500
    assert "cannot be read" in response.json()["error"]
    assert str(root) not in response.text
    assert ann.get("/api/models/ann/model").status_code == 200
