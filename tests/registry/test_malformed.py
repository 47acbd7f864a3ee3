"""Two hundred malformed artifacts: each is refused in one line, and nothing else happens."""

import resource
import shutil

import malformed
import pytest
import tiny
from ftplug_registry import pull
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

import ftplug
from ftplug import ArtifactError, RegistryError

COUNT = 200
MEGABYTES = 400  # by how much the process may grow over all of them

pytestmark = pytest.mark.slow


def refusal(action, *arguments, **options):
    """Return what a refusal says; None where there is none. Anything else raised is a crash."""
    try:
        action(*arguments, **options)
    except (ArtifactError, RegistryError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("start", range(0, COUNT, 50))
def test_a_malformed_folder_is_refused_in_one_line(start, base, saved, tmp_path):
    model = tiny.bert()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(start, start + 50):
        box = tmp_path / str(number)
        folder = box / "artifact"
        shutil.copytree(saved / ("lora" if number % 2 else "bottleneck"), folder)
        (box / "outside").write_text("untouched")
        what = malformed.spoil(folder, number)
        # A model that the caller built has its own config; the artifact's is not used then.
        for target in [base] + [model] * ("of the config" not in what):
            said = refusal(ftplug.load, target, folder)
            assert said is not None, f"loaded {what}"
            assert "\n" not in said, what
            assert len(said) < 1000, what
        assert sorted(path.name for path in box.iterdir()) == ["artifact", "outside"], what
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < MEGABYTES * 1024


@pytest.mark.parametrize("start", range(0, COUNT, 50))
def test_a_malformed_repository_is_refused_in_one_line(
    start, base, saved, client, hub, tmp_path, repo_id
):
    """Published by other means than ours, as an attacker would; pulled and loaded by ours."""
    client.create_repo(repo_id)
    for number in range(start, start + 50):
        box = tmp_path / str(number)
        folder = box / "artifact"
        shutil.copytree(saved / ("lora" if number % 2 else "bottleneck"), folder)
        what = malformed.spoil(folder, number)
        regular = [path for path in folder.rglob("*") if path.is_file()]  # /dev/zero is none
        additions = [CommitOperationAdd(p.name, p.read_bytes()) for p in regular]
        earlier = set(client.list_repo_files(repo_id)) - {path.name for path in regular}
        deletions = [CommitOperationDelete(name) for name in earlier]
        client.create_commit(repo_id, [*deletions, *additions], commit_message=what)
        target = box / "pulled"

        def fetched(target=target):
            ftplug.load(base, pull(repo_id, to=target, hub=hub))

        said = refusal(fetched)
        assert said is not None, f"loaded {what}"
        assert "\n" not in said, what
        assert {path.name for path in box.iterdir()} <= {"artifact", "pulled"}, what
