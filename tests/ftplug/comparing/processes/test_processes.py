"""Cells in processes of their own: what they find, how they end, and that nothing outlives them."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fake_cells
import psutil
import pytest

from ftplug.comparing.folder import opened
from ftplug.comparing.processes import imports, keeper, warm
from ftplug.comparing.processes.inside import be_cell
from ftplug.comparing.processes.task import Task
from ftplug.comparing.processes.warm import Processes
from ftplug.comparing.results import Cell, read_results

PATIENCE = 60.0  # seconds
SUPPORT = Path(fake_cells.__file__)


@pytest.fixture
def folder(tmp_path):
    with opened(tmp_path / "out", fake_cells.comparison(tmp_path)) as folder:
        yield folder


def until(condition, patience=PATIENCE):
    end = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def run(folder, cells, what, jobs=1):
    """Run cells; return their results by candidate."""
    engine, waiting, results = Processes(folder, jobs, what), list(cells), []
    try:
        while waiting or engine.since():
            while waiting and len(engine.since()) < jobs:
                engine.start(waiting.pop(0), prunes=False)
            engine.look(1.0)
            results += engine.ended()
    finally:
        engine.close()
    return {result.candidate: result for result in results}


def started(tmp_path):
    path = tmp_path / fake_cells.STARTED
    return path.read_text().split() if path.is_file() else []


def test_a_cell_leaves_its_result_and_how_long_it_took(folder):
    cell = Cell("lora", 1e-3, 0)
    result = run(folder, [cell], fake_cells.sleep)["lora"]
    assert result.cell == cell
    assert result.value == fake_cells.value_of(cell)
    assert 0 < result.seconds < PATIENCE
    assert (folder.cell(cell) / "artifact").is_dir()


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ("freeze", "ValueError: two lines"),
        ("bitfit", "killed by SIGSEGV; its last line: about to bitfit"),
        ("ia3", "ended with exit code 7, without a result; its last line: about to ia3"),
        (
            "layernorm",
            "killed (SIGKILL): often the system's out-of-memory killer; "
            "its last line: about to layernorm",
        ),
    ],
)
def test_a_cell_that_dies_is_told_with_its_last_line(folder, candidate, said):
    cells = [Cell(candidate, 1e-3, 0), Cell("lora", 1e-3, 0)]
    results = run(folder, cells, fake_cells.fail_in_some_way)
    assert (results[candidate].status, results[candidate].reason) == ("failed", said)
    assert results["lora"].status == "finished"  # and stops nobody else
    assert f"about to {candidate}\n" in (folder.cell(cells[0]) / "log.txt").read_text()


def test_a_thread_that_is_left_does_not_hold_a_cell_that_has_its_result(folder):
    result = run(folder, [Cell("lora", 1e-3, 0)], fake_cells.leave_a_thread)["lora"]
    assert result.status == "finished"
    assert result.seconds < PATIENCE


def test_an_end_by_the_out_of_memory_killer_is_called_so(folder, tmp_path):
    task = Task(folder.comparison, Cell("lora", None, 0), folder.path, fake_cells.sleep)
    assert keeper.died(task, -signal.SIGKILL, True).status == "out_of_memory"
    assert keeper.died(task, -signal.SIGSEGV, True).status == "failed"
    assert keeper.oom_kills() >= 0


def test_what_a_cell_finds(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(warm, "_cores", lambda: 6)
    cells = [Cell("lora", None, 0), Cell("bitfit", None, 0)]
    results = run(folder, cells, fake_cells.surroundings, jobs=2)
    found = [dict(note.split("=") for note in results[c.candidate].notes) for c in cells]
    assert [one.pop("CUDA_VISIBLE_DEVICES") for one in found] == ["3", "5"]
    expected = {
        "OMP_NUM_THREADS": "3", "threads": "3", "PYTHONHASHSEED": "None", "cuda": "False",
        "FTPLUG_SHARED_CACHE": str(folder.path / "cache"), "cwd": str(tmp_path), "group": "True",
    }  # fmt: skip
    assert found == [expected, expected]


def test_of_one_job_nothing_is_divided(folder, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    notes = run(folder, [Cell("lora", None, 0)], fake_cells.surroundings)["lora"].notes
    assert "CUDA_VISIBLE_DEVICES=None" in notes


def test_jobs_overlap(folder, monkeypatch):
    """Each waits until the other has begun, or for ever."""
    cells = [Cell("lora", None, 0), Cell("bitfit", None, 0)]
    assert len(run(folder, cells, fake_cells.meet, jobs=2)) == 2


def test_a_cell_that_is_ended_from_outside_is_pruned_and_gone(folder, tmp_path):
    engine, cell = Processes(folder, 1, fake_cells.leave_children), Cell("lora", 1e-3, 0)
    engine.start(cell, prunes=False)
    pids = until(lambda: pids_of(tmp_path, cell))
    [result] = engine.end("late")
    assert (result.cell, result.status, result.reason) == (cell, "pruned", "late")
    assert engine.since() == {}
    assert_gone(pids)


def test_a_cell_whose_server_is_killed_runs_once_again(folder, tmp_path, monkeypatch):
    engine, cell = Processes(folder, 1, fake_cells.leave_children), Cell("lora", 1e-3, 0)
    engine.start(cell, prunes=False)
    pids = until(lambda: pids_of(tmp_path, cell))
    os.kill(psutil.Process(pids[0]).ppid(), signal.SIGKILL)
    until(lambda: not engine.running[cell].process.is_alive())
    assert engine.ended() == []  # nobody says that it has failed
    assert engine.since() == {}
    assert_gone(pids)
    engine.run = fake_cells.sleep
    engine.start(cell, prunes=False)
    [result] = until(engine.ended)
    assert result.status == "finished"


def pids_of(tmp_path, *cells):
    """Return the processes of cells that hang, once all of them have said theirs."""
    paths = [tmp_path / f"{cell.id}.pids" for cell in cells]
    if not all(path.is_file() for path in paths):
        return []
    return [int(pid) for path in paths for pid in path.read_text().split()]


def assert_gone(pids):
    assert len(pids) >= 5
    until(lambda: not any(map(alive, pids)), patience=20)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command(out, *arguments, **environment):
    paths = {"PYTHONPATH": str(SUPPORT.parent), "CUDA_VISIBLE_DEVICES": ""}
    environ = os.environ | paths | environment
    program = [sys.executable, str(SUPPORT), str(out), *arguments]
    return subprocess.Popen(program, env=environ, stderr=subprocess.PIPE, text=True)


def cells_of(*candidates, seeds):
    return [
        Cell(candidate, rate, seed)
        for seed in range(seeds)
        for candidate in candidates
        for rate in (1e-4, 1e-3)
    ]


@pytest.mark.slow
def test_nothing_outlives_a_command_that_is_killed_alone(tmp_path):
    cells = cells_of("lora", seeds=1)
    with command(tmp_path / "out", "2", "1", "leave_children", "lora") as process:
        pids = until(lambda: pids_of(tmp_path, *cells))
        server = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        process.kill()
    assert set(pids) - set(server) <= {pid for pid in pids if pid}
    assert len(server) >= len(pids)  # the server is among them
    assert_gone([*pids, *server])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_with_a_report_so_far(tmp_path, number, code):
    out = tmp_path / "out"
    arguments = ("1", "3", "sleep", "lora", "bitfit")
    with command(out, *arguments, FAKE_SECONDS="0.4") as process:
        until(lambda: len(read_results(out / "results.jsonl")) >= 2)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(PATIENCE) == code
    until(lambda: not any(child.is_running() for child in children))
    ended = read_results(out / "results.jsonl")
    assert {result.status for result in ended} == {"finished"}
    assert len(ended) < 12
    summary = (out / "summary.json").read_text()
    assert '"complete": false' in summary
    assert f"{12 - len(ended)} cells have not run: the comparison was interrupted" in summary
    assert (out / "report.html").is_file()
    assert (out / "best" / "ftplug.json").is_file()


@pytest.mark.slow
def test_killed_five_times_nothing_that_finished_runs_twice(tmp_path):
    out, cells = tmp_path / "out", cells_of("lora", "bitfit", "ia3", seeds=4)
    arguments = ("2", "4", "sleep", "lora", "bitfit", "ia3")
    for kill in range(5):
        finished = {result.cell.id for result in read_results(out / "results.jsonl")}
        before = Counter(started(tmp_path))
        with command(out, *arguments) as process:
            more = len(finished) + 1 + kill % 3
            until(lambda more=more: len(read_results(out / "results.jsonl")) >= more)
            time.sleep(0.013 * kill)  # somewhere in a cell
            process.kill()
        again = Counter(started(tmp_path)) - before
        assert not finished & again.keys()
    with command(out, *arguments) as process:
        assert process.wait(PATIENCE) == 0
    results = read_results(out / "results.jsonl")
    assert sorted(result.cell.id for result in results) == sorted(cell.id for cell in cells)
    assert len(results) < len(started(tmp_path)) <= len(results) + 5 * 2  # those in flight
    with command(tmp_path / "whole", *arguments) as process:
        assert process.wait(PATIENCE) == 0
    assert values(results) == values(read_results(tmp_path / "whole" / "results.jsonl"))
    assert (out / "summary.json").read_text() == (tmp_path / "whole/summary.json").read_text()


def values(results):
    """What of results does not depend on time."""
    rows = [dataclasses.asdict(result) | {"seconds": None} for result in results]
    return sorted(rows, key=str)


def test_a_cell_reads_the_log_that_it_writes(tmp_path):
    """The last line with words, of a log that may be long and no text at all."""
    path = tmp_path / "log.txt"
    assert keeper.last_line(path) == ""
    path.write_bytes(b"x" * 50_000 + b"\n\xff the end \n\n")
    assert keeper.last_line(path) == "\ufffd the end"


@pytest.mark.slow
def test_the_server_starts_no_thread_and_touches_no_gpu():
    """What is forked from it would lack its threads and could not use its GPUs."""
    code = (
        "import os, warnings; from ftplug.comparing.processes import warm\n"
        "os.environ.update(warm._SERVER); os.environ.pop('OMP_NUM_THREADS', None)\n"
        f"import {imports.__name__}, torch, transformers\n"
        "print(len(os.listdir('/proc/self/task')), torch.cuda.is_initialized(), "
        "torch.cuda._is_in_bad_fork(), 'transformers.trainer' in __import__('sys').modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.split() == ["1", "False", "False", "True"], printed.stderr


def test_a_cells_own_processes_are_not_of_the_server(folder, tmp_path):
    assert callable(be_cell)
    result = run(folder, [Cell("lora", None, 0)], fake_cells.fork_by_a_server)["lora"]
    assert result.notes == ["of its own"], result.reason
