"""Cells as jobs of submitit, by its executor for this machine."""

import sys
import time
from pathlib import Path

import fake_cells
import pytest

from ftplug.comparing.folder import opened
from ftplug.comparing.processes import slurm
from ftplug.comparing.results import Cell
from ftplug.comparing.whole import run_comparison
from ftplug.errors import FtplugError

needs_submitit = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("submitit"),
    reason="needs submitit: pip install 'ftplug[slurm]'",
)


@pytest.fixture(autouse=True)
def stood_in_for(monkeypatch):
    modules = {}
    fake_cells.stand_in(modules)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    paths = [str(Path(fake_cells.__file__).parent), *sys.path]
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, paths)))


@needs_submitit
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_jobs_leave_the_same_folder(tmp_path):
    wanted = fake_cells.comparison(tmp_path, seeds=1)
    by_jobs = run_comparison(
        wanted, tmp_path / "jobs", jobs=2, engine="slurm-local", run=fake_cells.sleep
    )
    here = run_comparison(wanted, tmp_path / "here", run=fake_cells.sleep)
    assert by_jobs.code == here.code == 0
    found = [
        {result.cell: result.metrics for result in compared.folder.results}
        for compared in (by_jobs, here)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 2
    for name in ("summary.json", "best/ftplug.json"):
        assert (tmp_path / "jobs" / name).read_text() == (tmp_path / "here" / name).read_text()


@needs_submitit
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_job_that_dies_is_told_and_one_that_is_cancelled_is_gone(tmp_path):
    wanted = fake_cells.comparison(tmp_path, "bitfit", "lora")
    with opened(tmp_path / "out", wanted) as folder:
        jobs = slurm.Jobs(folder, 1, fake_cells.fail_in_some_way, cluster="local")
        jobs.start(Cell("bitfit", 1e-3, 0), prunes=False)
        until = time.monotonic() + 60
        while not (ended := jobs.ended()):
            assert time.monotonic() < until
            jobs.look(0.5)
        assert "killed by SIGSEGV" in ended[0].reason
        jobs.run = fake_cells.leave_children
        jobs.start(Cell("lora", 1e-3, 0), prunes=False)
        path = tmp_path / f"{Cell('lora', 1e-3, 0).id}.pids"
        while not path.is_file():
            assert time.monotonic() < until
            time.sleep(0.05)
        [result] = jobs.end("late")
        assert (result.status, result.reason) == ("pruned", "late")
        assert jobs.since() == {}
        pids = [int(pid) for pid in path.read_text().split()]
        while any(Path(f"/proc/{pid}").is_dir() for pid in pids):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_without_submitit_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    held = opened(tmp_path / "out", fake_cells.comparison(tmp_path))
    with held as folder, pytest.raises(FtplugError, match=r"pip install 'ftplug\[slurm\]'"):
        slurm.Jobs(folder)


@needs_submitit
def test_without_slurm_it_says_where_to_start(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    held = opened(tmp_path / "out", fake_cells.comparison(tmp_path))
    with held as folder, pytest.raises(FtplugError, match="no sbatch here"):
        slurm.Jobs(folder)
