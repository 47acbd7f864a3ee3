"""Five hundred cases of ``make fuzz``: each malformed artifact is refused in one line or loads."""

import subprocess
import sys
from pathlib import Path

import fuzz_mutations
import fuzz_proof
import fuzzing
import malformed
import pytest

pytestmark = pytest.mark.slow
COUNT = 500
SCRIPT = Path(__file__).parents[1] / "soak" / "fuzz.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = fuzzing.World(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


def test_malformed_artifacts_end_in_one_line_or_load_as_they_say():
    """In a process that is not pytest's, which would keep warnings from stderr."""
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--count", str(COUNT), "--jobs", "1"],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert f"{COUNT} cases in" in ended.stdout


def test_a_case_is_what_its_number_says(world):
    first, second = fuzzing.run(world, 7), fuzzing.run(world, 7)
    assert first == second
    assert len({fuzzing.plan(number) for number in range(200)}) > 40


@pytest.mark.parametrize(
    ("does", "outcome"),
    [
        (lambda *given: 1 / 0, "traceback"),
        (lambda *given: bytearray(b"x") * (1200 * 2**20), "memory"),
        (lambda world, folder, box: _refuse_changed(world), "changed"),
        (lambda *given: fuzzing.time.sleep(9), "hang"),
        (lambda world, folder, box: world.model, "other weights"),
    ],
)
def test_what_the_fuzzer_counts_it_sees(world, monkeypatch, does, outcome):
    monkeypatch.setattr(fuzzing, "SECONDS", 3 if outcome == "hang" else 60)
    monkeypatch.setattr(fuzzing, "plan", lambda number: ("load", "lora"))
    monkeypatch.setattr(fuzz_mutations, "MUTATIONS", [fuzz_mutations.a_fact])
    monkeypatch.setattr(malformed, "MUTATIONS", [])
    monkeypatch.setattr(fuzz_proof, "MUTATIONS", [])
    monkeypatch.setitem(fuzzing.OPEN, "load", does)
    assert fuzzing.run(world, 0)[0] == outcome


def _refuse_changed(world):
    import torch

    from ftplug import ArtifactError

    with torch.no_grad():
        next(world.model.parameters()).add_(1)
    raise ArtifactError("too late")
