"""What a browser is shown: the list at ``/``, a page a repository, nothing that is private."""

import json

import huggingface_hub
import pytest
import zoos
from browser.pages import Page

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def published(api, server, tmp_path):
    """A public and a private artifact of ann's, a plain model, one of a stranger's."""
    for name, private in (("ann/public", False), ("ann/secret", True), ("lab/evil", False)):
        card = zoos.HOSTILE_CARD if name == "lab/evil" else None
        folder = zoos.artifact(tmp_path / name, text=card)
        api.create_repo(name, private=private)
        api.upload_folder(repo_id=name, folder_path=folder)
    api.create_repo("lab/plain")
    return server


def test_the_address_that_push_prints_opens(published, http):
    answer = http().get("/ann/public", headers=HTML)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    assert page.errors == []
    assert "accuracy 0.9000" in page.text
    assert f"export HF_ENDPOINT={published.endpoint}" in page.text
    assert http().get("/ann/public/tree/main", headers=HTML).text == answer.text
    for link in ("/-/site.css", "/", "/-/comparisons", "/-/bases"):
        assert link in {a["href"] for a in page.all("a") + page.all("link")}
        assert http().get(link, headers=HTML).status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_list_shows_what_everybody_may_read(published, http):
    text = http().get("/", headers=HTML).text
    names = [a["href"] for a in Page(text).all("a") if a["href"].count("/") == 2]
    assert {n for n in names if "-" not in n} == {"/ann/public", "/lab/evil", "/lab/plain"}
    assert "secret" not in text
    assert "secret" in http("ann").get("/", headers=HTML).text
    assert "secret" not in http("bob").get("/", headers=HTML).text
    lab = http().get("/lab", headers=HTML).text
    assert "lab/evil" in lab
    assert "ann/public" not in lab
    assert "no ftplug.json: not an artifact of ftplug" in lab


def test_a_private_repository_looks_absent(published, http):
    absent = http().get("/ann/none", headers=HTML)
    for caller in (None, "bob"):
        private = http(caller).get("/ann/secret", headers=HTML)
        assert (private.status_code, private.text) == (404, absent.text)
    assert http("ann").get("/ann/secret", headers=HTML).status_code == 200


def test_an_older_revision_is_shown_as_it_was(published, api, http, tmp_path):
    api.create_tag("ann/public", tag="v1")
    newer = zoos.artifact(tmp_path / "newer", zoos.manifest(method="ia3"))
    sha = api.upload_folder(repo_id="ann/public", folder_path=newer).oid
    assert "ia3 on" in Page(http().get("/ann/public", headers=HTML).text).text
    assert "lora on" in Page(http().get("/ann/public/tree/v1", headers=HTML).text).text
    for path in (f"/ann/public/tree/{sha}", f"/ann/public/commit/{sha}"):
        assert "ia3 on" in Page(http().get(path, headers=HTML).text).text


def test_what_a_browser_has_is_not_sent_again(published, http):
    for path in ("/", "/ann/public", "/-/site.css", "/-/site.js"):
        first = http().get(path, headers=HTML)
        tag = first.headers["etag"]
        again = http().get(path, headers=HTML | {"If-None-Match": f'"x", W/{tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        head = http().head(path, headers=HTML)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == first.headers["content-length"]


@pytest.mark.parametrize(
    "path",
    ["/nobody", "/a/b", "/ann/public/tree/none", "/favicon.ico", "/ann/public/tree/%00", "/a..b/c"],
)
def test_where_there_is_no_page(published, http, path):
    answer = http().get(path, headers=HTML)
    assert answer.status_code == 404
    assert Page(answer.text).errors == []


@pytest.mark.parametrize("path", ["/api/none", "/datasets/x", "/spaces/y", "/models/z"])
def test_addresses_of_the_protocol_stay_its_own(http, path):
    answer = http().get(path, headers=HTML)
    assert answer.status_code in (401, 404)
    assert "error" in answer.json()


def test_nothing_can_be_sent_to_a_page(ann):
    for path in ("/", "/ann", "/ann/model", "/-/site.js"):
        assert ann.post(path, json={}).status_code == 405


def test_pages_of_strangers_run_nothing(published, http):
    text = http().get("/lab/evil", headers=HTML).text
    page = Page(text)
    assert [s for s in page.all("script")] == []
    assert "\x1b" not in text
    assert page.all("img") == []
    assert "Deprecated :" in page.text


def test_the_client_sees_no_difference(published, api):
    assert {one.id for one in api.list_models(filter="ftplug")} >= {"ann/public"}
    assert huggingface_hub.HfApi(published.endpoint).model_info("ann/public").id == "ann/public"


@pytest.mark.parametrize("slash", ["/ann/public/", "/ann/"])
def test_a_slash_at_the_end_leads_to_the_same_page(published, http, slash):
    page = http().get(slash, headers=HTML)
    assert (page.status_code, page.text) == (200, http().get(slash[:-1], headers=HTML).text)


def test_a_branch_with_a_slash_opens_as_it_is_typed(published, api, http):
    api.create_branch("ann/public", branch="feat/x")
    expected = http().get("/ann/public/tree/feat%2Fx", headers=HTML).text
    assert http().get("/ann/public/tree/feat/x", headers=HTML).text == expected
    folder = http().get("/ann/public/tree/main/none", headers=HTML)
    assert (folder.status_code, folder.headers["content-type"]) == (404, "text/html; charset=utf-8")


def test_whatever_a_browser_has_is_enough_where_it_says_so(published, http):
    answer = http().get("/ann/public", headers=HTML | {"If-None-Match": "*"})
    assert (answer.status_code, answer.content) == (304, b"")


def test_an_artifact_of_any_size_does_not_break_the_pages(published, api, http, tmp_path):
    folder = zoos.artifact(tmp_path / "huge")
    facts = zoos.manifest()
    facts["files"][zoos.WEIGHTS]["size"] = 10**400
    (folder / "ftplug.json").write_text(json.dumps(facts))
    api.create_repo("lab/huge")
    api.upload_folder(repo_id="lab/huge", folder_path=folder)
    for path in ("/lab/huge", "/lab", "/", "/-/bases", "/-/comparisons"):
        assert http().get(path, headers=HTML).status_code == 200, path
