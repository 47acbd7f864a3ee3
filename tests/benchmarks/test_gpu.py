"""The steps of ``make gpu``: nine minutes, each kept at once, each run here with a tiny model."""

import json
import time

import gpu
import gpu_steps
import lora_shapes
import pytest
import torch
from gpu import COMPARED, INSTALL, STEPS, Day, Step, chosen
from report import Found


def test_all_steps_take_nine_minutes_at_most_and_every_one_is_in_a_half():
    assert sum(step.limit for step in STEPS) <= 540
    halves = [chosen(half, None) for half in (1, 2)]
    assert {step for half in halves for step in half} == set(STEPS)
    assert all(half[0] is INSTALL for half in halves)
    assert [step.name for step in chosen(None, ["8b"])] == ["install", "8b"]


def test_every_comparison_is_a_step():
    assert {step.name for step in COMPARED} == set(gpu_steps.COMPARISONS)


def test_the_named_test_files_hold_all_tests_that_need_a_gpu():
    tests = gpu.ROOT / "tests"
    marked = {
        str(file.relative_to(gpu.ROOT))
        for file in tests.rglob("test_*.py")
        if "pytest.mark.gpu" in file.read_text(encoding="utf-8") and file.name != "test_gpu.py"
    }
    assert set(gpu.TESTS) == marked


@pytest.mark.slow
@pytest.mark.parametrize("name", gpu_steps.COMPARISONS)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's own use of transformers
def test_a_comparison_runs_with_a_tiny_model(name):
    found = Found()
    for comparison in gpu_steps.COMPARISONS[name]:
        gpu_steps.run(found, comparison, gpu_steps.TINY)
    memory = torch.cuda.is_available()
    assert len(found.ratios) == len(gpu_steps.COMPARISONS[name]) * (1 + memory)
    assert all(figure.value > 0 for figure in found.figures)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_a_shape_is_measured_and_fusing_keeps_no_more(half):
    found = Found()
    lora_shapes.measure(found, lora_shapes.Shape(64, 48, 32), half, count=2)
    assert found.ratios[0].found.median_b > 0
    assert found.figures[0].value <= 1


def test_a_rehearsal_makes_all_comparisons_in_one_process():
    steps = gpu.together(STEPS)
    assert [step.name for step in steps] == ["install", "tests", "shapes", "comparisons"]
    assert set(steps[-1].compared) == set(gpu_steps.COMPARISONS)


def test_a_tiny_model_has_no_goals():
    found = Found()
    gpu_steps.run(found, gpu_steps.COMPARISONS["lora-all"][0], gpu_steps.TINY)
    assert gpu_steps.COMPARISONS["lora-all"][0].faster
    assert found.ratios[0].goal is None


def test_what_a_trainer_raises_ends_its_step():
    def failing(folder, size, **options):
        made = gpu_steps.plain(folder, size, **options)
        made.create_optimizer = lambda *_: 1 / 0
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gpu_steps.ARMS, "plain Trainer", failing)
        with pytest.raises(ZeroDivisionError):
            gpu_steps.run(Found(), gpu_steps.Comparison("plain Trainer", "`full`"), gpu_steps.TINY)


@pytest.fixture
def day(tmp_path):
    with (tmp_path / "log.txt").open("w") as log:
        yield Day(tmp_path, tmp_path / "site", log, "own")


def results(day):
    return json.loads((day.out / "results.json").read_text())["steps"]


def test_a_step_that_takes_too_long_is_cut_off_and_what_came_before_is_kept(day, monkeypatch):
    monkeypatch.setattr(gpu, "HERE", day.out)
    kept = "import pathlib, sys\npathlib.Path(sys.argv[3]).write_text({!r})\n"
    first = {"ratios": [], "figures": [], "series": []}
    script = day.out / "gpu_steps.py"
    script.write_text(kept.format(json.dumps(first)) + "import time\ntime.sleep(60)\n")
    start = time.monotonic()
    assert not day.run(Step("qlora", 2))
    assert time.monotonic() - start < 20
    assert results(day)["qlora"]["ended"] == "cut off"
    assert results(day)["qlora"]["found"] == first
    script.write_text(kept.format(json.dumps(first)))
    assert day.run(Step("attach", 20))
    assert list(results(day)) == ["qlora", "attach"]
    assert "| qlora | cut off |" in (day.out / "table.md").read_text()


def test_a_step_that_fails_is_said(day, monkeypatch):
    monkeypatch.setattr(gpu, "HERE", day.out)
    (day.out / "gpu_steps.py").write_text("raise SystemExit(3)\n")
    assert not day.run(Step("qlora", 20))
    assert results(day)["qlora"] | {"seconds": 0} == {
        "ended": "failed (3)", "seconds": 0, "found": None,
    }  # fmt: skip


def test_without_a_kit_the_cure_is_named(day, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "KITS", tmp_path / "none")
    with pytest.raises(SystemExit, match="make gpu-kit"):
        day.run(INSTALL)
