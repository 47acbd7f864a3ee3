"""What is shown while cells run."""

import io
import json

import fake_cells
import pytest
from rich.console import Console

from ftplug.comparing.folder import opened
from ftplug.comparing.results import Cell
from ftplug.comparing.scheduling import live
from ftplug.comparing.scheduling.planning import Plan, planned_rates

ENDED = [Cell("lora", 1e-3, 0), Cell("bitfit", 1e-3, 0)]
RUNNING = Cell("lora", 1e-3, 1)


class Engine:
    jobs = 1

    def since(self):
        return {RUNNING: 5.0}


@pytest.fixture
def folder(tmp_path):
    with opened(tmp_path / "out", fake_cells.comparison(tmp_path)) as folder:
        yield folder


@pytest.fixture
def plan(folder):
    return Plan(
        folder.comparison, planned_rates(folder.comparison), fake_cells.choose, fake_cells.at_edge
    )


def printed(*what, width=120):
    console = Console(width=width, file=io.StringIO())
    console.print(*what)
    return console.file.getvalue()


def test_the_table_says_what_runs_is_done_is_best_and_is_left(folder, plan):
    for cell, value in zip(ENDED, (0.75, 0.5), strict=True):
        folder.append(fake_cells.result(cell, value, seconds=60.0))
    progress = folder.empty(RUNNING) / "progress.jsonl"
    progress.write_text(json.dumps({"epoch": 2.0, "value": 0.25}) + "\n")
    text = printed(live.table(folder, plan, Engine(), folder.results))
    lora, bitfit = text.splitlines()[1:3]
    words = "lora 1 accuracy 0.7500 at 0.001 lr 0.001 seed 1, epoch 2: 0.2500, 5 s"
    assert " ".join(lora.split()) == words
    assert bitfit.split() == ["bitfit", "1", "accuracy", "0.5000", "at", "0.001"]
    assert "2 of 4 cells, about 2 min left" in text


def test_nothing_is_said_of_time_before_a_cell_has_ended(folder, plan):
    text = printed(live.table(folder, plan, Engine(), []))
    assert "0 of 4 cells. Ctrl-C" in text


def test_of_losses_the_smallest_is_the_best(folder, plan):
    facts = {"metric": "loss", "greater_is_better": False}
    results = [
        fake_cells.result(Cell("lora", 1e-3, seed), value, **facts)
        for seed, value in enumerate((0.3, 0.1, 0.2))
    ]
    assert "loss 0.1000" in printed(live.table(folder, plan, Engine(), results))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"seconds": 3.2}, "4. lora lr 0.001 seed 0: finished, accuracy 0.5000, 3 s"),
        (
            {"status": "failed", "reason": "why", "chosen_by": None, "seconds": None},
            "4. lora lr 0.001 seed 0: failed: why",
        ),
    ],
)
def test_a_line_says_how_a_cell_ended(facts, said):
    assert live.line(fake_cells.result(ENDED[0], **facts), 4) == said


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5460, "1 h 31 min")],
)
def test_a_duration_in_words(seconds, words):
    assert live.seconds_in_words(seconds) == words


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_there_is_a_table_else_lines(folder, plan, terminal, tmp_path):
    with open(tmp_path / "shown", "w+") as file:
        console = Console(file=file, force_terminal=terminal, width=100)
        shown = live.Shown(folder, console)
        with shown.shown():
            shown.ended(fake_cells.result(ENDED[0]))
            shown.ended(fake_cells.result(ENDED[1], status="failed", reason="why [bold]"))
            shown.look(plan, Engine(), [])
        file.seek(0)
        text = file.read()
    assert ("best so far" in text) == terminal
    assert ("seed 0: finished" in text) != terminal
    assert "failed" in text  # in both, with its reason as it is
    assert "why [bold]" in text
