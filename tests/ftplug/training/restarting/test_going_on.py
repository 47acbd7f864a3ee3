"""``ftplug run --resume auto``: a script that is started again goes on from its last checkpoint."""

import json
import shutil
from pathlib import Path

import kills
import pytest
import ranks
import restarted
from ftplug_plugins.lora import Lora

import ftplug
from ftplug import cli
from ftplug.artifacts.checkpoint import STATE_WEIGHTS
from ftplug.training.restarting.going_on import Restarts
from ftplug.training.running import reached
from ftplug.training.running.telling import RUN
from ftplug.training.script import Launch

SCRIPT = restarted.__file__


def start(out, *arguments):
    """Start the script as ``ftplug run --resume auto`` does."""
    Launch([Lora(r=4)], restarts=Restarts(resume="auto")).run([SCRIPT, str(out), *arguments])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing strikes."""
    out = tmp_path_factory.mktemp("straight") / "out"
    Launch([Lora(r=4)]).run([SCRIPT, str(out)])
    return out


@pytest.fixture
def struck(tmp_path):
    """A run that dies in its sixth step, with checkpoints of the second and the fourth."""
    with pytest.raises(RuntimeError, match="struck"):
        start(tmp_path / "out", "--strike", "5:error:0")
    return tmp_path / "out"


def test_it_starts_anew_where_there_is_nothing(straight, tmp_path, capsys):
    start(tmp_path / "out")
    assert f"--resume auto: none in {tmp_path / 'out'}: starts anew" in capsys.readouterr().err
    assert kills.differences(tmp_path / "out", straight) == []


def test_it_goes_on_from_the_last_checkpoint(straight, struck, capsys):
    start(struck, "--strike", "3:error:0")  # a run that began anew would come to this step
    assert f"goes on from {struck / 'checkpoint-4'}" in capsys.readouterr().err
    assert kills.differences(struck, straight) == []


def test_a_run_that_is_done_takes_no_step(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "out")
    start(tmp_path / "out", "--strike", "8:error:0")
    assert kills.differences(tmp_path / "out", straight) == []


def test_a_damaged_checkpoint_is_passed_over(straight, struck, caplog):
    weights = struck / "checkpoint-4" / STATE_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    start(struck)
    [said] = [r.message for r in caplog.records if "passes over" in r.message]
    assert f"{struck / 'checkpoint-4'}" in said
    assert kills.differences(struck, straight) == []


def test_where_none_is_whole_it_starts_anew(straight, struck, capsys):
    for checkpoint in struck.iterdir():
        (checkpoint / "optimizer.pt").unlink()
    start(struck)
    assert "starts anew" in capsys.readouterr().err
    assert kills.differences(struck, straight) == []


def test_what_the_script_asks_for_counts_more(straight, struck, capsys):
    start(struck, "--resume", str(struck / "checkpoint-2"), "--strike", "4:SIGKILL:0")
    assert "--resume auto" not in capsys.readouterr().err
    assert kills.differences(struck, straight) == []


TWICE = """
import sys
sys.path.insert(0, {support!r})
import runs, tiny
for out in sys.argv[1:]:
    runs.trainer(tiny.bert(), out, max_steps=4, save_steps=2).train()
"""


def test_each_training_of_a_script_goes_on_in_its_own_folder(tmp_path, capsys):
    twice = tmp_path / "twice.py"
    twice.write_text(TWICE.format(support=str(Path(kills.__file__).parent)))
    a, b = tmp_path / "a", tmp_path / "b"
    for _ in range(2):
        Launch([Lora()], restarts=Restarts(resume="auto")).run([str(twice), str(a), str(b)])
    assert capsys.readouterr().err.count("goes on from") == 2
    with pytest.raises(ftplug.MethodError, match=r"trains twice into .*/a, and nothing says which"):
        Launch([Lora()], restarts=Restarts(resume="auto")).run([str(twice), str(a), str(a)])
    Launch([Lora()]).run([str(twice), str(a), str(a)])


@pytest.mark.ddp
def test_all_processes_go_on_from_the_same(struck, tmp_path):
    """Where each node has a disk of its own, a kill may have come between their checkpoints."""
    for rank, steps in enumerate(((2, 4), (2,))):
        for step in steps:
            name = f"checkpoint-{step}"
            shutil.copytree(struck / name, tmp_path / f"{rank}" / name)
    assert ranks.both(ranks.last_whole, folder=tmp_path) == [["checkpoint-2"]] * 2
    shutil.rmtree(tmp_path / "1" / "checkpoint-2")
    for said in ranks.refusals(ranks.last_whole, folder=tmp_path):
        assert "process 0 sees checkpoint-4" in said
        assert "process 1 sees none there that is whole" in said
    shutil.rmtree(tmp_path / "0" / "checkpoint-2")
    shutil.rmtree(tmp_path / "0" / "checkpoint-4")
    assert ranks.both(ranks.last_whole, folder=tmp_path) == [[None]] * 2


def test_processes_that_the_script_starts_are_told(monkeypatch):
    launch = Launch([Lora()], restarts=Restarts(resume="auto"))
    monkeypatch.setenv(RUN, json.dumps({**launch._for_children(), "records": None}))
    monkeypatch.setattr("sys.excepthook", None)
    assert reached._launch.__wrapped__().restarts == launch.restarts


def test_the_command_line_takes_auto_alone(tmp_path, monkeypatch, capsys):
    for value, code in (("auto", 0), ("checkpoint-4", 1)):
        out, words = tmp_path / value, ["--resume", value, "--", SCRIPT, str(tmp_path / value)]
        monkeypatch.setattr("sys.argv", ["ftplug", "run", "--method", "lora", *words])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert (done.value.code or 0) == code
        assert out.exists() is (code == 0)
    assert "--resume 'checkpoint-4': write 'auto'" in capsys.readouterr().err


def test_the_command_line_tells_the_run(monkeypatch):
    told = []
    monkeypatch.setattr(Launch, "run", lambda self, *_, **__: told.append(self.restarts))
    for option in ("--resume=auto", "--preemptible", "--allow-batch-change"):
        monkeypatch.setattr("sys.argv", ["ftplug", "run", "-M", "lora", option, "--", SCRIPT])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    assert told == [Restarts("auto"), Restarts(preemptible=True), Restarts(allow_batch_change=True)]
