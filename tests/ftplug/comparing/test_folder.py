"""A comparison's folder: held by one, each line written once, gone on with by the same alone."""

import dataclasses
import json
import math
import multiprocessing

import fake_cells
import pytest

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.folder import (
    HOLDER,
    copy_of_artifact,
    opened,
    pruned,
    read_result,
    write_result,
)
from ftplug.comparing.results import Cell, read_results
from ftplug.errors import FtplugError

CELLS = [Cell("lora", 1e-3, seed) for seed in range(3)]


@pytest.fixture
def wanted(tmp_path):
    return fake_cells.comparison(tmp_path)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def refused(out, comparison):
    with pytest.raises(FtplugError) as error, opened(out, comparison):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_was_appended_is_there_again(out, wanted):
    with opened(out, wanted) as folder:
        for cell in CELLS:
            folder.append(fake_cells.result(cell, reason="a\nb\u2028c\x85d"))
    assert Comparison.read(out) == wanted
    with opened(out, dataclasses.replace(wanted, key="f" * 64)) as folder:
        assert folder.results == read_results(out / "results.jsonl")
        assert [result.cell for result in folder.results] == CELLS
        assert folder.comparison.key == wanted.key  # hashes of examples stay comparable


def test_a_script_may_say_what_is_no_unicode(out, wanted):
    """A file's name that is not UTF-8 stands so in the exception that names it."""
    with opened(out, wanted) as folder:
        folder.append(fake_cells.result(CELLS[0], reason="no file caf\udce9.csv"))
        place = folder.empty(CELLS[1])
        write_result(place, fake_cells.result(CELLS[1], reason="\udce9"))
        assert read_result(place).reason == "?"
    assert read_results(out / "results.jsonl")[0].reason == "no file caf?.csv"


@pytest.mark.parametrize("place", ["command", "folder", "candidates", "dataset_name"])
def test_what_cannot_be_written_is_refused_before_anything_runs(out, wanted, place):
    text = "caf\udce9"
    given = (text,) if place in ("command", "candidates") else text
    said = refused(out, dataclasses.replace(wanted, **{place: given}))
    assert r"'caf\udce9' is not UTF-8" in said
    assert not out.exists()
    with opened(out, dataclasses.replace(wanted, command=("café.py",))):
        assert Comparison.read(out).command == ("café.py",)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "first"}, {"lr": "high"}, {"metrics": None}, {"metrics": {"accuracy": "good"}},
        {"status": "bogus"}, {"candidate": None}, {"epochs": 3}, {"notes": "text"}, {"seed": -1},
        {"lr": 0}, {"lr": math.nan}, {"lr": math.inf}, {"epochs": [{"metrics": [1]}]},
        {"epochs": [{"epoch": "a", "metrics": {}}]}, {"epochs": [{"metrics": {"f1": "x"}}]},
    ],
)  # fmt: skip
def test_a_line_of_another_shape_is_refused_by_its_number(out, wanted, changes):
    with opened(out, wanted) as folder:
        for cell in CELLS[:2]:
            folder.append(fake_cells.result(cell))
    first, second = (out / "results.jsonl").read_text().splitlines()
    altered = json.dumps(json.loads(second) | changes)
    (out / "results.jsonl").write_text(f"{first}\n{altered}\n")
    assert "results.jsonl:2: no result of a comparison: delete the line" in refused(out, wanted)


def test_a_cell_has_one_line(out, wanted):
    with opened(out, wanted) as folder:
        for cell in (*CELLS, CELLS[0]):
            folder.append(fake_cells.result(cell))
    assert "results.jsonl:4: a second line of one cell" in refused(out, wanted)


@pytest.mark.parametrize("changes", [{"candidates": None}, {"seeds": "many"}, {"command": 3}])
def test_a_comparison_of_another_shape_is_refused(out, wanted, changes):
    with opened(out, wanted):
        pass
    found = json.loads((out / "comparison.json").read_text())
    (out / "comparison.json").write_text(json.dumps(found | changes))
    assert "comparison.json: no comparison of ftplug compare: " in refused(out, wanted)


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_torn_line_is_cut_off_before_anything_is_appended(out, wanted, kept):
    with opened(out, wanted) as folder:
        for cell in CELLS[:2]:
            folder.append(fake_cells.result(cell))
    lines = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(lines[0] + lines[1][:kept])
    with opened(out, wanted) as folder:
        assert [result.cell for result in folder.results] == CELLS[:1]
        folder.append(fake_cells.result(CELLS[2]))
    left = read_results(out / "results.jsonl")
    assert [result.cell for result in left] == [CELLS[0], CELLS[2]]


def test_a_cell_that_ended_while_nobody_wrote_its_line_is_taken_up_once(out, wanted):
    with opened(out, wanted) as folder:
        write_result(folder.empty(CELLS[0]), fake_cells.result(CELLS[0]))
        folder.empty(CELLS[1])
    for _ in range(2):
        with opened(out, wanted) as folder:
            assert [result.cell for result in folder.results] == CELLS[:1]
    assert len((out / "results.jsonl").read_text().splitlines()) == 1


def test_a_cell_begins_in_an_empty_folder(out, wanted):
    with opened(out, wanted) as folder:
        (folder.empty(CELLS[0]) / "left").write_text("of an earlier try")
        assert list(folder.empty(CELLS[0]).iterdir()) == []


def hold(out, comparison, pipe):
    with opened(out, comparison):
        pipe.send("held")
        pipe.poll(None)


def test_a_second_run_is_told_who_holds_it(out, wanted):
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(out, wanted, theirs))
    process.start()
    ours.recv()
    try:
        said = refused(out, wanted)
        assert f"process {process.pid} on " in said
        assert "another folder" in said
    finally:
        ours.send("end")
        process.join()
    assert not (out / HOLDER).exists()
    with opened(out, wanted):
        pass


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"command": ("other.py",)}, "its command was train.py, now it is other.py"),
        ({"candidates": ("lora",)}, "its --try was lora bitfit, now it is lora"),
        ({"baseline": "bitfit"}, "its --baseline was lora, now it is bitfit"),
        ({"rates": None}, "its --lr was 0.001, now it is not given"),
        ({"rates": (0.00100000001,)}, "its --lr was 0.001, now it is 0.00100000001:"),
        ({"seeds": 1}, "its --seeds was 2, now it is 1"),
        ({"metric": "f1"}, "its --metric was not given, now it is f1"),
        ({"folder": "/elsewhere"}, "its working folder was"),
        ({"seed_arg": "--seed {seed}"}, "its --seed-arg was not given"),
    ],
)
def test_another_comparison_is_refused_by_what_differs(out, wanted, change, said):
    with opened(out, wanted):
        pass
    assert said in refused(out, dataclasses.replace(wanted, **change))
    assert Comparison.read(out) == wanted


def test_more_candidates_seeds_and_another_delta_go_on(out, wanted):
    with opened(out, wanted) as folder:
        folder.append(fake_cells.result(CELLS[0]))
    more = dataclasses.replace(
        wanted, candidates=("ia3", "lora", "bitfit"), seeds=3, delta=0.02, budget_minutes=3.0
    )
    with opened(out, more) as folder:
        assert len(folder.results) == 1
    assert Comparison.read(out) == more


def test_a_folder_of_something_else_and_a_file_are_refused(out, wanted, tmp_path):
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    assert "not empty (thesis.tex)" in refused(out, wanted)
    assert sorted(path.name for path in out.iterdir()) == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    assert "a file" in refused(tmp_path / "file", wanted)


def test_a_result_in_a_cells_folder_is_whole_or_none(tmp_path):
    result = fake_cells.result(CELLS[0], notes=["one"])
    assert read_result(tmp_path) is None
    write_result(tmp_path, result)
    assert read_result(tmp_path) == result
    path = tmp_path / "result.json"
    path.write_bytes(path.read_bytes()[:40])
    assert read_result(tmp_path) is None


def test_a_cell_ended_from_outside_keeps_what_it_had_reached(out, wanted):
    with opened(out, wanted) as folder:
        loss = {"metric": "loss", "greater_is_better": False}
        folder.append(fake_cells.result(CELLS[0], **loss))
        place = folder.empty(CELLS[1])
        (place / "progress.jsonl").write_text(json.dumps({"epoch": 1.0, "value": -0.7}) + "\n{")
        result = pruned(folder, CELLS[1], "late")
    assert (result.status, result.reason, result.metric) == ("pruned", "late", "loss")
    assert result.epochs == [{"epoch": 1.0, "metrics": {"loss": 0.7}}]


def test_a_copy_takes_the_place_of_what_was_there(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
        copy_of_artifact(tmp_path / name, tmp_path / "best")
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "one", "two"]
