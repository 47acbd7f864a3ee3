"""``ftplug run --preemptible``: a signal ends a run after a checkpoint, in all processes."""

import signal
import threading

import kills
import pytest
import restarted
import workers
from ftplug_plugins.lora import Lora
from transformers import TrainerCallback

import ftplug
from ftplug.artifacts.checkpoint import check_complete
from ftplug.training.restarting.going_on import Restarts
from ftplug.training.script import Launch

SCRIPT = restarted.__file__
CODES = {"SIGTERM": 143, "SIGUSR1": 138}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing strikes."""
    out = tmp_path_factory.mktemp("straight") / "out"
    Launch([Lora(r=4)]).run([SCRIPT, str(out)])
    return out


def start(out, *arguments):
    """Start the script as ``ftplug run --preemptible --resume auto`` does; return its exit code."""
    launch = Launch([Lora(r=4)], restarts=Restarts(resume="auto", preemptible=True))
    try:
        launch.run([SCRIPT, str(out), *arguments])
    except SystemExit as done:
        return done.code
    return 0


def steps(out):
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in out.iterdir())


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("save", [0, 4])
def test_a_signal_ends_the_run_after_a_checkpoint(straight, tmp_path, name, save, capsys):
    out = tmp_path / "out"
    arguments = ["--save", str(save), "--strike", f"3:{name}:0"]
    assert start(out, *arguments) == CODES[name]
    assert f"{name}: the last checkpoint is checkpoint-3, exit" in capsys.readouterr().err
    assert not kills.beside(out, kills.end_name()).exists()  # the rest of the script
    assert steps(out) == [3]
    check_complete(out / "checkpoint-3")
    assert start(out, *arguments) == 0
    assert kills.differences(out, straight) == []


@pytest.mark.parametrize(
    ("event", "count", "last"),
    [
        ("on_train_begin", 1, 1),  # before the first step
        ("on_step_begin", 4, 4),
        ("on_substep_end", 4, 4),
        ("on_prediction_step", 1, 4),
        ("on_save", 1, 4),
        ("on_epoch_begin", 2, 5),
        ("on_epoch_end", 1, 4),
        ("on_step_end", 8, 8),
        ("on_train_end", 1, 8),
    ],
)
def test_whenever_it_comes_the_run_goes_on_to_the_same(tmp_path, event, count, last):
    options = {"max_steps": 8, "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
    options |= {"gradient_accumulation_steps": 2, "use_cpu": True}  # 4 steps an epoch

    class Comes(TrainerCallback):
        seen = 0

    def at(self, args, state, control, **kwargs):
        self.seen += 1
        if self.seen == count:
            signal.raise_signal(signal.SIGTERM)

    setattr(Comes, event, at)

    def run(name, callbacks=()):
        made = restarted.runs.trainer(
            restarted.tiny.bert(dropout=0.1), tmp_path / name, callbacks=list(callbacks), **options
        )
        made = ftplug.attach(made, "lora", r=4)
        made.ftplug.restarts = Restarts(resume="auto", preemptible=True)
        return made

    (straight := run("straight")).train()
    kills.result(straight, tmp_path / "straight")
    with pytest.raises(SystemExit, match="143"):
        run("out", [Comes()]).train()
    assert max(steps(tmp_path / "out")) == last
    (again := run("out")).train()
    kills.result(again, tmp_path / "out")
    assert kills.differences(tmp_path / "out", tmp_path / "straight") == []


HANDLED = """
import signal, sys
from pathlib import Path
sys.path.insert(0, {support!r})
import runs, tiny
from transformers import TrainerCallback

class Comes(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)

out = Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda number, frame: seen.extend([number, len(list(out.iterdir()))]))
seen = []
trainer = runs.trainer(
    tiny.bert(), out, max_steps=4, save_strategy="no", callbacks=[Comes()],
    enable_jit_checkpoint={jit},
)
try:
    trainer.train()
except Exception:
    seen.append("swallowed")
finally:
    (out / "seen").write_text(repr(seen))
(out / "rest").touch()
"""


@pytest.mark.parametrize("jit", [False, True])
def test_the_scripts_own_handler_acts_once_the_checkpoint_is_there(tmp_path, jit):
    """Also where the script asks for transformers' own checkpoint, which would wait for a timer."""
    path = tmp_path / "handled.py"
    path.write_text(HANDLED.format(support=restarted.kills.SUPPORT.as_posix(), jit=jit))
    (out := tmp_path / "out").mkdir()
    with pytest.raises(SystemExit, match="143"):
        Launch([Lora()], restarts=Restarts(preemptible=True)).run(
            [str(path), str(tmp_path / "out")]
        )
    names = sorted(entry.name for entry in (tmp_path / "out").iterdir())
    assert names == ["checkpoint-3", "seen"]
    assert (out / "seen").read_text() == "[15, 1]"
    assert [t for t in threading.enumerate() if isinstance(t, threading.Timer)] == []


def test_handlers_are_what_they_were_after_training(tmp_path):
    before = [signal.getsignal(getattr(signal, name)) for name in CODES]
    assert start(tmp_path / "out") == 0
    assert [signal.getsignal(getattr(signal, name)) for name in CODES] == before


def test_a_signal_that_is_too_late_comes_again(tmp_path):
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("after"))
    made = ftplug.attach(restarted.runs.trainer(restarted.tiny.bert(), tmp_path), "lora")
    with made.ftplug.preemption.watching():
        signal.raise_signal(signal.SIGUSR1)
        assert seen == []
    assert seen == ["after"]


def test_without_the_option_a_signal_does_what_it_did(tmp_path):
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("now"))
    Launch([Lora(r=4)]).run([SCRIPT, str(tmp_path / "out"), "--strike", "3:SIGUSR1:0"])
    assert seen == ["now"]
    assert steps(tmp_path / "out") == [2, 4, 6, 8]


def test_where_no_handler_can_be_set_it_is_said(tmp_path, monkeypatch, caplog):
    thread = threading.Thread(target=start, args=(tmp_path / "a",))
    thread.start()
    thread.join()
    assert "this training is not in the main thread" in caplog.text
    monkeypatch.delattr(signal, "SIGUSR1")  # as on Windows
    assert start(tmp_path / "b", "--strike", "3:SIGTERM:0") == 143
    assert "this system has no SIGUSR1" in caplog.text


@pytest.fixture(scope="module")
def spawner():
    return kills.Spawner()


@pytest.mark.ddp
@pytest.mark.slow
def test_a_signal_to_one_of_two_ends_both_at_one_step(tmp_path, spawner):
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert workers.run(spawner, 2, straight) == [0, 0]
    strike = ["--strike", "3:SIGUSR1:1"]
    assert workers.run(spawner, 2, out, *strike, preemptible=True) == [138, 138]
    assert steps(out) == [2, 3]
    assert kills.incomplete(out) == ""
    assert workers.run(spawner, 2, out, *strike, preemptible=True) == [0, 0]
    assert kills.differences(out, straight, ranks=2) == []
