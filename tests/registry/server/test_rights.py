"""Who may see and change what, and that tokens appear nowhere."""

import logging
import subprocess

import commits
import hub
import pytest
from ftplug_registry.server.accounts import Account
from ftplug_registry.server.embedded import EmbeddedHub
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from ftplug.errors import RegistryError

MODEL = "/api/models/ann/model"


def writes(client):
    """Return the status of every request that changes something, the last one deletes it."""
    signed = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1}]}
    requests = {
        "preupload": ("POST", f"{MODEL}/preupload/main", {"files": []}),
        "batch": ("POST", "/ann/model.git/info/lfs/objects/batch", signed),
        "branch": ("POST", f"{MODEL}/branch/b", {}),
        "tag": ("POST", f"{MODEL}/tag/main", {"tag": "t"}),
        "delete branch": ("DELETE", f"{MODEL}/branch/b", None),
        "delete tag": ("DELETE", f"{MODEL}/tag/t", None),
        "settings": ("PUT", f"{MODEL}/settings", {"gated": False}),
        "move": ("POST", "/api/repos/move", {"fromRepo": "ann/model", "toRepo": "ann/model"}),
        "delete": ("DELETE", "/api/repos/delete", {"name": "model", "organization": "ann"}),
    }
    found = {"commit": commits.post(client, ("file", commits.file("a"))).status_code}
    for name, (method, url, body) in requests.items():
        found[name] = client.request(method, url, json=body).status_code
    return found


def reads(client):
    """Return the status of every request that reads something of the repository."""
    urls = [
        MODEL,
        *(f"{MODEL}/{end}" for end in ("revision/main", "tree/main", "refs", "commits/main")),
    ]
    answers = {url: client.get(url) for url in [*urls, "/ann/model/resolve/main/.gitattributes"]}
    answers["paths-info"] = client.post(f"{MODEL}/paths-info/main", json={"paths": []})
    return answers


def test_a_public_repository(ann, http):
    for caller in (None, "bob", "ann"):
        assert {answer.status_code for answer in reads(http(caller)).values()} == {200}
        assert [m["id"] for m in http(caller).get("/api/models").json()] == ["ann/model"]
    assert set(writes(http()).values()) == {401}
    assert set(writes(http("bob")).values()) == {403}
    assert set(writes(ann).values()) == {200}


def test_a_private_repository_looks_absent(ann, http):
    assert ann.put(f"{MODEL}/settings", json={"visibility": "private"}).status_code == 200
    for caller, status in ((None, 401), ("bob", 404)):
        client = http(caller)
        private, absent = reads(client), client.get("/api/models/ann/absent")
        for answer in private.values():
            assert answer.status_code == absent.status_code == status
            assert answer.headers["X-Error-Code"] == "RepoNotFound"
            assert (answer.text, answer.headers["X-Error-Message"]) == (
                absent.text,
                absent.headers["X-Error-Message"],
            )
        assert set(writes(client).values()) == {status}
        for query in ("", "?author=ann", "?search=model", "?full=true"):
            assert client.get(f"/api/models{query}").json() == []
    assert {answer.status_code for answer in reads(ann).values()} == {200}
    assert [m["private"] for m in ann.get("/api/models").json()] == [True]
    assert set(writes(ann).values()) == {200}


def test_the_python_client_sees_a_private_repository_as_absent(server, api, repo, tmp_path):
    api.update_repo_settings(repo, private=True)
    for account in (None, "bob"):
        with hub.client(server, account, home=tmp_path / str(account)) as other:
            with pytest.raises(RepositoryNotFoundError):
                other.repo_info(repo)
            with pytest.raises(RepositoryNotFoundError):
                other.hf_hub_download(repo, ".gitattributes")
            assert not other.repo_exists(repo)
            assert not other.file_exists(repo, ".gitattributes")
            assert list(other.list_models()) == []


def test_namespaces(http):
    for caller, organization, status in (
        (None, "ann", 401), ("bob", "ann", 403), ("bob", "lab", 403), ("bob", "nobody", 403),
        ("ann", "lab", 200), ("ann", "ann", 200), ("ann", None, 409), ("bob", None, 200),
    ):  # fmt: skip
        request = {"name": "fresh", "organization": organization}
        assert http(caller).post("/api/repos/create", json=request).status_code == status
    for source, target, status in (
        ("lab/fresh", "bob/taken", 403), ("bob/fresh", "ann/taken", 403),
        ("lab/fresh", "ann/fresh", 409), ("lab/absent", "ann/x", 404),
        ("lab/fresh", "ann/moved", 200),
        ("ann/moved", "../../x", 400), ("ann/moved", "ann", 400), ("ann/moved", "ann/a/b", 400),
    ):  # fmt: skip
        move = {"fromRepo": source, "toRepo": target}
        assert http("ann").post("/api/repos/move", json=move).status_code == status, move


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".git", "a.git", "a/b", "../x", "a--b", "a..b", "-a", "a b", "ü", "x" * 97,
     "a\0", "a.lock", 1, None, ["a"]],
    ids=lambda name: ascii(name)[:20],
)  # fmt: skip
def test_names_that_no_repository_may_have(http, name):
    for request in ({"name": name}, {"name": "x", "organization": name or ""}):
        response = http("ann").post("/api/repos/create", json=request)
        assert response.status_code in {400, 403}, response.text


@pytest.mark.parametrize(
    "url", ["/api/models", MODEL, "/api/whoami-v2", "/ann/model/resolve/main/a"]
)
def test_an_unknown_token_is_told_so(http, ann, url):
    for header in ("Bearer hf_unknown", "Bearer", "Basic YTpi", "x", ""):
        response = http().get(url, headers={"Authorization": header})
        assert response.status_code == 401
        assert response.headers["X-Error-Message"] == "Invalid credentials in Authorization header"


def test_other_hosts_names_are_refused(http):
    assert http().get("/api/models", headers={"Host": "evil.example"}).status_code == 400


def test_tokens_are_the_same_after_a_restart_and_their_files_are_private(tmp_path):
    root = tmp_path / "root"
    with EmbeddedHub(root, accounts=[Account("ann")]) as first:
        token = first.token("ann")
        with pytest.raises(
            RegistryError, match="no account named 'bob'; the accounts here are ann"
        ):
            first.token("bob")
    with EmbeddedHub(root, accounts=[Account("ann", ("lab",)), Account("bob")]) as second:
        assert second.token("ann") == token != second.token("bob")
    assert token not in (root / "accounts.json").read_text()
    modes = {path.name: path.stat().st_mode & 0o777 for path in root.rglob("*")}
    assert [modes[name] for name in ("accounts.json", "ann", "bob", "tokens")] == [0o600] * 3 + [
        0o700
    ]
    assert root.stat().st_mode & 0o777 == 0o700
    second.token_path("ann").unlink()
    with EmbeddedHub(root) as third:
        assert third.token("local")
    with EmbeddedHub(root, accounts=[Account("ann")]) as fourth:
        assert fourth.token("ann") != token  # a lost file: a new token, the old one is void


def test_an_account_left_out_can_no_longer_sign_in(tmp_path):
    root = tmp_path / "root"
    with EmbeddedHub(root, accounts=[Account("ann"), Account("bob")]) as first:
        token = first.token("bob")
        with hub.client(first, "bob", home=tmp_path / "home") as api:
            api.create_repo("bob/model", private=True)
    with EmbeddedHub(root, accounts=[Account("ann")]) as second:
        assert second.left_out == ["bob"]
        with pytest.raises(RegistryError, match="no account named 'bob'"):
            second.token("bob")
        with hub.client(second, "ann", home=tmp_path / "home"):
            api = HfApi(second.endpoint, token=token)
            for call in (api.whoami, lambda: api.create_repo("bob/x"), api.list_models):
                with pytest.raises(HfHubHTTPError, match=r"401|Invalid user token"):
                    list(call() or ())
            with pytest.raises(HfHubHTTPError, match="403"):
                HfApi(second.endpoint, token=second.token("ann")).create_repo("bob/x")
    with EmbeddedHub(root, accounts=[Account("ann"), Account("bob")]) as third:
        assert (third.token("bob"), third.left_out) == (token, [])
        with hub.client(third, "bob", home=tmp_path / "home") as api:
            assert api.repo_info("bob/model").private


def test_beyond_loopback_only_insecurely_and_with_tokens(tmp_path):
    for host, match in (("0.0.0.0", "one IPv4 address"), ("::1", "one IPv4"), ("x\n", "one IPv4")):
        with pytest.raises(RegistryError, match=match):
            EmbeddedHub(tmp_path, host=host, insecure_lan=True)
        with pytest.raises(RegistryError, match="--insecure-lan"):
            EmbeddedHub(tmp_path, host=host)
    own = {"host": "127.0.0.2", "insecure_lan": True, "lfs_threshold": 4096}
    with EmbeddedHub(tmp_path / "root", **own) as server:
        assert server.endpoint.startswith("http://127.0.0.2:")
        with hub.client(server, home=tmp_path / "home") as api:
            api.create_repo("local/model")
            api.upload_file(
                path_or_fileobj=b"x" * 9000, path_in_repo="a.bin", repo_id="local/model"
            )  # by LFS, whose address is signed
            assert api.hf_hub_download("local/model", "a.bin")
            anonymous = HfApi(server.endpoint, token=False)
            for call in (
                lambda: list(anonymous.list_models()), lambda: anonymous.repo_info("local/model"),
                lambda: anonymous.create_repo("local/x"),
            ):  # fmt: skip
                with pytest.raises(HfHubHTTPError, match="401"):
                    call()
            for address in ("local/model/resolve/main/a.bin", "api/models/local/model/refs"):
                assert hub_session().get(f"{server.endpoint}/{address}").status_code == 401


def test_changes_are_logged_by_whom_what_and_nothing_else(server, api, repo, caplog, http):
    caplog.set_level(logging.INFO, "ftplug_registry.server.changes")
    caplog.clear()
    done = api.upload_file(path_or_fileobj=b"x", path_in_repo="a", repo_id=repo)
    api.create_tag(repo, tag="v1")
    api.create_branch(repo, branch="b\u202e\x9b31m")
    api.delete_tag(repo, tag="v1")
    api.list_repo_commits(repo)
    api.update_repo_settings(repo, private=True)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError):
            HfApi(server.endpoint, token=server.token("bob")).delete_repo(repo)
    api.move_repo(repo, "lab/moved")
    api.delete_repo("lab/moved")
    logged = [r.getMessage() for r in caplog.records if r.name == "ftplug_registry.server.changes"]
    assert logged == [
        f"ann: commit {done.oid} to main of {repo}",
        f"ann: tag v1 of {repo} at {done.oid}",
        f"ann: branch b\ufffd\ufffd31m of {repo} at {done.oid}",
        f"ann: delete tag v1 of {repo}",
        f"ann: settings of {repo}: private",
        f"ann: move {repo} to lab/moved",
        "ann: delete lab/moved",
    ]
    assert all(line.isprintable() for line in logged)


@pytest.mark.parametrize(
    "accounts",
    [[Account("a/b")], [Account("")], [Account("api")], [Account("Datasets")], [Account("..")],
     [Account("a", ("b/..",))], [Account("a", ("b",)), Account("b")], [Account("a"), Account("A")]],
    ids=str,
)  # fmt: skip
def test_accounts_that_cannot_be(tmp_path, accounts):
    with pytest.raises(RegistryError, match=r"^account"), EmbeddedHub(tmp_path, accounts=accounts):
        pass


def test_a_damaged_list_of_accounts_is_said_so(tmp_path):
    (tmp_path / "accounts.json").write_text('{"ann": 1}')
    with pytest.raises(RegistryError, match="is not a list of accounts"), EmbeddedHub(tmp_path):
        pass


def test_a_token_shows_nowhere(server, api, repo, root, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    canary = server.token("ann")
    api.upload_file(path_or_fileobj=b"x" * 9000, path_in_repo="a.bin", repo_id=repo)
    bodies = []
    for token in (canary, f"{canary}x"):
        headers = {"Authorization": f"Bearer {token}", "Cookie": f"token={token}"}
        for method, url in (
            ("GET", "/api/whoami-v2"), ("GET", f"/api/models/{token}/x"),
            ("POST", "/api/repos/create"),
            ("GET", f"{MODEL}/tree/main?token={token}"), ("PUT", f"{MODEL}/settings"),
            ("POST", f"{MODEL}/commit/main"), ("GET", f"/ann/model/resolve/{'x' * 9000}/a"),
            ("GET", "/ann/model/resolve/main/a.bin"),
        ):  # fmt: skip
            response = hub_session().request(method, server.endpoint + url, headers=headers)
            bodies.append(response.content + str(response.headers).encode())
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(repo, branch="a..b")
    bodies.append(str(error.value).encode())
    assert not any(canary.encode() in body for body in bodies)
    assert canary not in "".join(capfd.readouterr())
    ours = [r for r in caplog.records if r.name.startswith(("uvicorn", "ftplug", "starlette"))]
    assert canary not in "".join(map(logging.Formatter().format, ours))
    done = subprocess.run(["grep", "-rl", canary, str(root)], capture_output=True, text=True)
    assert done.stdout.split() == [str(root / "tokens/ann")]


def hub_session():
    from huggingface_hub.utils import get_session

    return get_session()
