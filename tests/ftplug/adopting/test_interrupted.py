"""Adopting that is killed, or done twice at a time: a complete artifact comes of it, or none."""

import itertools

import kills
import pytest
from kills import KILLED, beside

import ftplug


@pytest.fixture(scope="module")
def spawner():
    return kills.Spawner()


def test_killed_at_any_change_of_the_disk_it_can_be_done_again(spawner, elsewhere, lora, tmp_path):
    seen = []
    for change in itertools.count(1):
        target = tmp_path / str(change) / "adopted"
        target.parent.mkdir()
        code = spawner.run(kills.adopt, lora, elsewhere.root / "bert", target, change)
        if code == 0:
            break
        assert code == KILLED
        complete = (target / "ftplug.json").exists()
        seen.append(complete)
        again = spawner.run(kills.adopt, lora, elsewhere.root / "bert", target)
        assert again == (1 if complete else 0), change  # what is complete is not written over
        ftplug.load(elsewhere.base("bert"), target)
    assert seen == sorted(seen)  # nothing, then all
    assert seen.count(False) > 5
    assert change == len(beside(target, ".trail").read_text().splitlines()) + 1


def test_of_two_at_a_time_one_takes_the_place(spawner, elsewhere, lora, tmp_path):
    target = tmp_path / "adopted"
    arguments = (kills.adopt, lora, elsewhere.root / "bert", target)
    both = [spawner.start(*arguments) for _ in range(2)]
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) == [0, 1]
    (refused,) = tmp_path.glob("adopted.refused-*")
    said = refused.read_text()
    assert "exists already" in said or "another process made it meanwhile" in said
    ftplug.load(elsewhere.base("bert"), target)
