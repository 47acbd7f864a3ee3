"""A zoo in a folder, and the site that is made of it."""

import pytest
import zoos
from ftplug_registry.site.collecting import collect
from ftplug_registry.site.writing import write_site


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Six sound artifacts, one malformed, one of a stranger who means harm."""
    root = zoos.zoo(tmp_path_factory.mktemp("zoo"), 6)
    (zoos.artifact(root / "lab" / "bad") / "ftplug.json").write_text('{"methods": ')
    hostile = zoos.manifest(method="<script>alert(1)</script>", training={"seed": "\x1b[2J"})
    zoos.artifact(root / "lab" / "evil", hostile, zoos.HOSTILE_CARD)
    beside = zoos.manifest(training={"comparison": zoos.COMPARISON})
    zoos.artifact(root / "team" / "best", beside)
    return root


@pytest.fixture(scope="module")
def site(zoo, tmp_path_factory):
    """The folder of the site."""
    return write_site(collect([str(zoo)]), tmp_path_factory.mktemp("out") / "site", "A zoo").folder
