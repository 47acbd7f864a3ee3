"""Whatever ends a run, and whenever: what was complete stays complete, and the next run goes on.

The runs that die are children of a warm process (tests/support/kills.py). ``make soak`` does the
same at random moments.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import signal
import tarfile
import threading
from pathlib import Path

import kills
import psutil
import pytest
import tiny
from ftplug_registry import verify
from kills import KILLED, beside, differences, incomplete, last, names
from runs import StopAt, losses, same, weights
from transformers import TrainerCallback
from typer.testing import CliRunner

import ftplug
import ftplug.cli
from ftplug import ArtifactError
from ftplug.artifacts.checkpoint import check_complete
from ftplug.files import staged as files
from ftplug.files import swapping
from ftplug.files.folder_lock import claimed
from ftplug.training.checkpoint_folder import move_old_checkpoints

SHORT = {"max_steps": 6, "save_steps": 2}
# The best checkpoint is the second: the third save removes the first one.
ROTATING = SHORT | {"max_steps": 8, "best": True, "save_total_limit": 2}


@pytest.fixture(scope="module")
def spawner():
    return kills.Spawner()


@pytest.fixture(scope="module")
def straight(spawner, tmp_path_factory):
    """Return the folders of runs that nobody interrupted."""
    root = tmp_path_factory.mktemp("straight")
    for name, options in {"short": SHORT, "rotating": ROTATING, "twelve": {}}.items():
        assert spawner.run(kills.train, root / name, "lora", options, {}) == 0
    return root


# Killed


def test_a_run_killed_at_any_step_of_a_save_goes_on_bit_identically(spawner, straight, tmp_path):
    """The save writes a checkpoint, and rotation then removes the one before it."""
    for change in itertools.count(1):
        out = tmp_path / str(change)
        when = {"save": 3, "change": change}
        code = spawner.run(kills.train, out, "lora", dict(ROTATING), when)
        if code == 0:
            break
        assert code == KILLED
        assert incomplete(out) == "", change
        assert last(out) in (str(out / "checkpoint-4"), str(out / "checkpoint-6")), change
        check_complete(out / "checkpoint-4")  # the best one
        if last(out) == str(out / "checkpoint-4"):  # nothing goes before the new one is complete
            check_complete(out / "checkpoint-2")
        assert spawner.run(kills.train, out, "lora", dict(ROTATING), {}) == 0
        assert differences(out, straight / "rotating") == [], change
        assert names(out) == ["checkpoint-4", "checkpoint-8"], change
    trail = beside(out, ".trail").read_text()
    assert "os.rename /checkpoint-2" in trail
    assert change == len(trail.splitlines()) + 1 > 15


@pytest.mark.parametrize("action", ["SIGKILL", "ENOSPC"])
def test_an_artifact_is_replaced_whole(spawner, tmp_path, action):
    """Another method's artifact takes the place of one; others' files in the folder stay."""
    old, new = (weights(kills.carrier(*what)) for what in (("lora", 0.1), ("full", 0.2)))
    assert spawner.run(kills.save_artifact, tmp_path / "old", "lora", 0.1, 0, "") == 0
    (tmp_path / "old" / "checkpoint-2").mkdir()
    (tmp_path / "old" / "checkpoint-2" / "theirs").write_text("theirs")
    seen = []
    for change in itertools.count(1):
        target = shutil.copytree(tmp_path / "old", tmp_path / str(change) / "artifact")
        code = spawner.run(kills.save_artifact, target, "full", 0.2, change, action)
        if code == 0 and beside(target, ".trail").read_text().count("\n") + 1 < change:
            break
        with contextlib.suppress(ArtifactError):  # half moved: that is for a writer to finish
            ftplug.load(tiny.bert(), target)
            assert not list(target.glob(f"{files.COMMITTED}*/ftplug.json"))
        files.finish_interrupted(target)
        found = weights(ftplug.load(tiny.bert(), target))
        if code == 0:  # making a folder that is there already may fail
            assert action == "ENOSPC"
            assert same(found, new)
            continue
        assert code == (KILLED if action == "SIGKILL" else 1)
        seen.append("old" if same(found, old) else "new" if same(found, new) else "half")
        ftplug.save(kills.carrier("full", 0.3), target)
        assert names(target) == [
            "README.md", "checkpoint-2", "config.json", "ftplug.json", "ftplug_probe.safetensors",
            "model.safetensors",
        ], change  # fmt: skip
        assert names(target / "checkpoint-2") == ["theirs"]
    assert seen == sorted(seen, reverse=True)  # old, then new
    assert seen.count("old") > 5
    assert seen.count("new") > 5


def half_moved(folder, machine=files._MACHINE, text="new", last="ftplug.json"):
    """Return what a save that was killed before it moved anything leaves in a folder."""
    stage = folder / f"{files.STAGE}0-{machine}-999999999"
    stage.mkdir(parents=True)
    (stage / last).write_text(text)
    committed = files._write_journal(stage, last, [])
    return stage.rename(committed)


def test_other_machines_stages_are_theirs(tmp_path):
    """They may share the folder; only a move that nobody is still making is finished for them."""
    stage = tmp_path / f"{files.STAGE}0-0123abcd-1"
    stage.mkdir()
    moving = half_moved(tmp_path, "0123abcd", "moving", "other.txt")
    left = half_moved(tmp_path, "76543210", "left", "note.txt")
    os.utime(left, (1, 1))
    assert files.finish_interrupted(tmp_path)
    files.remove_abandoned(tmp_path, files.STAGE)
    assert names(tmp_path) == sorted([stage.name, moving.name, "note.txt"])
    assert (tmp_path / "note.txt").read_text() == "left"


def test_a_reader_leaves_what_is_half_moved_to_a_writer(tmp_path):
    ftplug.save(kills.carrier("lora", 0.1), tmp_path / "a")
    old, committed = (tmp_path / "a" / "ftplug.json").read_text(), half_moved(tmp_path / "a")
    for read in (lambda: ftplug.load(tiny.bert(), tmp_path / "a"), lambda: verify(tmp_path / "a")):
        with pytest.raises(
            ArtifactError, match=f"ftplug finish {tmp_path}/a, or save into"
        ) as said:
            read()
        assert "\n" not in str(said.value)
    assert (tmp_path / "a" / "ftplug.json").read_text() == old
    assert committed.is_dir()
    done = CliRunner().invoke(ftplug.cli.app, ["finish", str(tmp_path / "a")])
    assert "the save is finished" in done.output
    assert (tmp_path / "a" / "ftplug.json").read_text() == "new"
    assert not committed.exists()
    done = CliRunner().invoke(ftplug.cli.app, ["finish", str(tmp_path / "a")])
    assert "nothing to finish" in done.output


def copied(folder, to):
    return shutil.copytree(folder, to)


def archived(folder, to):
    with tarfile.open(f"{to}.tar", "w") as archive:
        archive.add(folder, arcname=".")
    with tarfile.open(f"{to}.tar") as archive:
        archive.extractall(to, filter="tar")
    return to


@pytest.mark.parametrize("carry", [copied, archived])
def test_what_is_half_moved_is_no_longer_moved_once_it_was_carried_elsewhere(tmp_path, carry):
    """An artifact could hide another one like that, which nobody verified."""
    good = kills.carrier("lora", 0.1)
    ftplug.save(good, tmp_path / "a")
    half_moved(tmp_path / "a")
    there = carry(tmp_path / "a", tmp_path / "b")
    [committed] = there.glob(f"{files.COMMITTED}*")
    os.utime(committed, (1, 1))
    assert same(weights(ftplug.load(tiny.bert(), there)), weights(good))
    with pytest.raises(ArtifactError, match=r"no save into this folder left it .*: remove it"):
        ftplug.save(good, there)
    assert (there / "ftplug.json").read_text() != "new"
    shutil.rmtree(committed)
    ftplug.save(good, there)


def test_a_folder_that_was_renamed_is_the_same_one(tmp_path):
    half_moved(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert files.finish_interrupted(tmp_path / "b")
    assert names(tmp_path / "b") == ["ftplug.json"]


def test_a_run_finishes_what_was_half_moved_in_its_folder(tmp_path):
    half_moved(tmp_path / "out", last="note.txt")
    kills.bound(tmp_path / "out", "lora", max_steps=2, save_steps=2).train()
    assert names(tmp_path / "out") == ["checkpoint-2", "note.txt"]


@pytest.mark.parametrize("name", ["_ftplug_committed-0-a-1/ftplug.json", "_FTPLUG_journal.json"])
def test_no_artifact_lists_a_name_of_an_interrupted_save(tmp_path, name):
    ftplug.save(kills.carrier("lora", 0.1), tmp_path)
    path = tmp_path / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"size": 0, "sha256": 64 * "0"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="is named as what an interrupted save leaves"):
        ftplug.load(tiny.bert(), tmp_path)


def test_rotation_leaves_a_checkpoint_that_somebody_named(tmp_path):
    found = ("checkpoint-best", "checkpoint-2", "checkpoint-4", "checkpoint-6", "grave")
    for minute, name in enumerate(found):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (60 * minute, 60 * minute))  # else they are sorted by number
    newest = tmp_path / "checkpoint-6"
    move_old_checkpoints(tmp_path, tmp_path / "grave", 1, None, newest)
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-best", "grave"]


@pytest.mark.parametrize(
    "change",
    [
        {"obsolete": ["../precious"]},
        {"obsolete": ["away/precious"]},
        {"obsolete": [7]},
        {"last": None},
        {"inode": "1"},
        {"owner": -1},
        {"more": "[" * 100_000 + "]" * 100_000},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_strangers_journal_reaches_nothing(tmp_path, change):
    """Even where somebody writes into the very folder that a save was interrupted in."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "downloaded").mkdir()
    (tmp_path / "downloaded" / "away").symlink_to("..")
    committed = half_moved(tmp_path / "downloaded")
    journal = json.loads((committed / files.JOURNAL).read_text()) | change
    text = json.dumps(journal) if "more" not in change else change["more"]
    (committed / files.JOURNAL).write_text(text)
    ctime = (committed / files.JOURNAL).stat().st_ctime_ns
    committed = committed.rename(f"{str(committed).rpartition('-')[0]}-{ctime}")
    with pytest.raises(ArtifactError, match="remove it") as said:
        ftplug.save(kills.carrier("lora", 0.1), tmp_path / "downloaded")
    assert "\n" not in str(said.value)
    assert (tmp_path / "precious").read_text() == "mine"
    with pytest.raises(ArtifactError, match=r"no ftplug\.json|interrupted while"):
        ftplug.load(tiny.bert(), tmp_path / "downloaded")


def test_a_new_artifact_is_there_whole_or_not_at_all(spawner, tmp_path):
    for change in itertools.count(1):
        target = tmp_path / str(change) / "artifact"
        target.parent.mkdir()
        if spawner.run(kills.save_artifact, target, "lora", 0.1, change, "SIGKILL") == 0:
            break
        assert not target.exists()
        ftplug.save(kills.carrier("lora", 0.1), target)
        assert names(target.parent) == ["artifact"]
    assert change > 8


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_checkpoint_that_is_written_again_is_replaced_whole(spawner, tmp_path, exchanges):
    for change in itertools.count(1):
        root = tmp_path / str(change)
        for name, content in {"stage/new": "new", "checkpoint-2": "old"}.items():
            (root / name).mkdir(parents=True)
            (root / name / "file").write_text(content)
        code = spawner.run(
            kills.replace, root / "stage" / "new", root / "checkpoint-2", change, exchanges
        )
        there = root / "checkpoint-2" / "file"
        if code == 0:
            break
        if exchanges:
            assert there.read_text() in ("old", "new")
        else:  # both are there, under the stage's name
            assert there.is_file() or (names(root / "stage") == ["new", "new-old"])
    assert there.read_text() == "new"
    assert names(root / "stage") == []
    assert change > (2 if exchanges else 4)


# Refused by the disk


@pytest.mark.parametrize("action", ["ENOSPC", "EROFS"])
def test_a_disk_that_refuses_any_step_of_a_save_costs_that_save_alone(
    spawner, straight, tmp_path, action
):
    """One line says what and where; the run before goes on from its last complete checkpoint."""
    failed = 0
    for change in itertools.count(1):
        out = tmp_path / str(change)
        when = {"save": 2, "change": change, "action": action}
        code = spawner.run(kills.train, out, "lora", dict(SHORT), when)
        assert incomplete(out) == "", change
        if code == 0 and beside(out, ".trail").read_text().count("\n") + 1 < change:
            break
        if code != 0:  # removing what is left may fail silently
            failed += 1
            said = beside(out, ".error").read_text()
            cure = "make room there" if action == "ENOSPC" else "make it writable"
            assert said.startswith(f"cannot write {out}: [Errno {getattr(errno, action)}]"), said
            assert f"{cure} or choose another folder" in said
            assert "\n" not in said
            assert spawner.run(kills.train, out, "lora", dict(SHORT), {}) == 0
        assert differences(out, straight / "short") == [], change
        assert names(out) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"], change
    assert failed > 5


# Signals


@pytest.mark.parametrize("where", ["training", "saving", "artifact"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_ftplug_run_ends_as_its_script_by_a_signal(spawner, straight, tmp_path, name, where):
    out = tmp_path / "out"
    script = str(Path(kills.__file__).with_name("interrupted.py"))
    line = ["run", "--method", "lora", "--set", "r=4", "--", script, str(out)]
    assert spawner.run(kills.command, *line, name, where) == -signal.Signals[name]
    assert incomplete(out) == ""
    assert last(out) == str(out / ("checkpoint-6" if where == "artifact" else "checkpoint-2"))
    assert not (out / "ftplug.json").exists()
    assert spawner.run(kills.command, *line, "", "") == 0
    assert differences(out, straight / "short") == []
    check = ftplug.load(tiny.bert(dropout=0.1), out)
    assert same(weights(check), kills.end_of(out)["weights"])
    assert not any(name.startswith("_") for name in names(out))


class Request(TrainerCallback):
    """Asks for transformers' checkpoint on SIGTERM, at an event of a step."""

    def __init__(self, event, step):
        self.step = step
        setattr(self, event, self.request)

    def request(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
            for thread in threading.enumerate():  # transformers' grace period
                if isinstance(thread, threading.Timer):
                    thread.join()


@pytest.mark.parametrize("step", [3, 8])  # in an epoch, and where one ends
@pytest.mark.parametrize(
    "event", ["on_epoch_begin", "on_step_begin", "on_pre_optimizer_step", "on_step_end"]
)
def test_a_checkpoint_on_sigterm_resumes_bit_identically(straight, tmp_path, event, step):
    def run(name, *callbacks, **options):
        bound = kills.bound(tmp_path / name, "lora", save_strategy="no", **options)
        for callback in callbacks:
            bound.add_callback(callback)
        return bound

    if event == "on_epoch_begin":
        step = 8 * (step == 8)
    before = signal.getsignal(signal.SIGTERM)
    interrupted = run("out", Request(event, step), enable_jit_checkpoint=True)
    for callback in interrupted.callback_handler.callbacks:
        if hasattr(callback, "jit_manager"):
            callback.jit_manager.kill_wait = 0
    interrupted.train()
    assert signal.getsignal(signal.SIGTERM) == before
    assert interrupted.state.global_step < kills.STEPS
    assert incomplete(tmp_path / "out") == ""
    [checkpoint] = (tmp_path / "out").iterdir()
    assert not list(checkpoint.glob("*.txt"))
    (resumed := run("out")).train(resume_from_checkpoint=True)
    kills.result(resumed, tmp_path / "out")
    # The Trainer logs a step after this checkpoint is written: that loss may be in no history.
    assert set(differences(tmp_path / "out", straight / "twelve")) <= {"losses in -end.pt"}
    logged, complete = losses(resumed), kills.end_of(straight / "twelve")["losses"]
    assert len(logged) >= len(complete) - 1
    assert set(logged) <= set(complete)


# Damaged


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """One bit, as a failing disk: torch would read it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def three(straight, tmp_path):
    """Return a finished run with the checkpoints 2, 4 and 6, the last of which does not count."""
    out = shutil.copytree(straight / "short", tmp_path / "out")
    shutil.rmtree(out / "checkpoint-6")
    return out


ALL = [truncate, flip, Path.unlink]
HARMS = {
    "ftplug_state.json": ALL,
    "ftplug_state.safetensors": ALL,
    "ftplug_files.json": [truncate, flip],  # without it the other files are believed
    "optimizer.pt": ALL,
    "scheduler.pt": ALL,
    "ftplug_batches_0.pth": ALL,
    "rng_state.pth": ALL,
    "trainer_state.json": [truncate, Path.unlink],  # people edit it: no digest is kept
}


@pytest.mark.parametrize(("name", "harm"), [(n, harm) for n, all in HARMS.items() for harm in all])
def test_a_damaged_checkpoint_is_named_and_the_last_complete_one_is_resumed(
    three, caplog, harm, name
):
    harm(three / "checkpoint-4" / name)
    explicit = kills.bound(three, "lora", **SHORT)
    with pytest.raises(ArtifactError) as refused:
        explicit.train(resume_from_checkpoint=str(three / "checkpoint-4"))
    said = str(refused.value)
    assert str(three / "checkpoint-4") in said
    assert said.endswith(f": resume {three / 'checkpoint-2'}, the last complete one before it")
    assert name in said or (name, harm) == ("ftplug_files.json", flip)  # it blames a listed file
    assert "\n" not in said
    assert caplog.text == ""


def test_resume_true_falls_back_to_the_last_complete_checkpoint(
    spawner, straight, three, caplog, tmp_path
):
    (three / "checkpoint-6").mkdir()  # as transformers leaves it when it is killed on SIGTERM
    (three / "checkpoint-6" / "checkpoint-is-incomplete.txt").write_text("")
    truncate(three / "checkpoint-4" / "optimizer.pt")
    bound = kills.bound(three, "lora", **SHORT)
    bound.train(resume_from_checkpoint=True)
    kills.result(bound, three)
    assert differences(three, straight / "short") == []
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{three / 'checkpoint-6'}: no ftplug_state.json")
    assert said.endswith(f": resuming {three / 'checkpoint-2'}, the last complete one before it")
    assert names(three / "checkpoint-6") == names(straight / "short" / "checkpoint-6")


def test_without_a_complete_checkpoint_it_says_start_anew(three):
    for step in (2, 4):
        truncate(three / f"checkpoint-{step}" / "optimizer.pt")
    bound = kills.bound(three, "lora", **SHORT)
    for asked in (True, str(three / "checkpoint-4")):
        with pytest.raises(ArtifactError, match=r"optimizer\.pt: .*no earlier one is complete: st"):
            bound.train(resume_from_checkpoint=asked)
    with pytest.raises(ValueError, match="No valid checkpoint found"):  # the Trainer's own words
        kills.bound(three / "new", "lora").train(resume_from_checkpoint=True)


def test_a_checkpoint_without_a_list_of_files_resumes(three):
    (three / "checkpoint-4" / "ftplug_files.json").unlink()
    check_complete(three / "checkpoint-4")
    kills.bound(three, "lora", **SHORT).train(resume_from_checkpoint=True)


def test_half_a_checkpoint_does_not_push_out_whole_ones(three):
    """Somebody else's deletion was interrupted: what is left is the most recent folder."""
    (three / "checkpoint-2" / "trainer_state.json").unlink()
    os.utime(three / "checkpoint-4", (1, 1))
    bound = kills.bound(three, "lora", **SHORT, save_total_limit=2)
    bound.train(resume_from_checkpoint=True)
    assert names(three) == ["checkpoint-4", "checkpoint-6"]


def test_the_best_checkpoint_is_found_again_after_a_resume(tmp_path):
    stopped = kills.bound(tmp_path / "out", "lora", **ROTATING)
    stopped.add_callback(StopAt(4))
    stopped.train()
    assert stopped.state.global_step == 4
    assert stopped.state.best_model_checkpoint == str(tmp_path / "out" / "checkpoint-4")
    best = weights(stopped.model)
    resumed = kills.bound(tmp_path / "out", "lora", **ROTATING)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8
    assert resumed.state.best_model_checkpoint == str(tmp_path / "out" / "checkpoint-4")
    assert same(weights(resumed.model), best)


def test_a_run_that_was_done_takes_no_further_step(straight, tmp_path):
    """Killed after its last checkpoint and before its artifact; at a rate that is not yet zero."""
    options = SHORT | {"lr_scheduler_type": "constant"}
    done = kills.bound(tmp_path / "out", "lora", **options)
    done.train()
    resumed = kills.bound(tmp_path / "out", "lora", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert same(weights(resumed.model), weights(done.model))


# Two at once


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_is_gone(spawner, tmp_path):
    out = tmp_path / "out"
    here, there = spawner.context.Pipe()
    first = spawner.start(kills.train_until, out, there)
    assert here.poll(60)  # it trains
    second = kills.bound(out, "lora", **SHORT)
    untouched = weights(second.model)
    for _ in range(2):
        with pytest.raises(ArtifactError, match="another run is writing its checkpoints there"):
            second.train()
    assert same(weights(second.model), untouched)
    assert names(out) == ["checkpoint-2"]
    kills.bound(out, "lora", max_steps=2, save_strategy="no").train()  # writes none
    first.kill()
    first.join()
    second.train(resume_from_checkpoint=True)
    assert names(out) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_a_worker_that_outlives_its_killed_run_holds_nothing(spawner, tmp_path):
    here, there = spawner.context.Pipe()
    run = spawner.start(kills.claim_and_fork, tmp_path, there)
    there.close()
    assert here.poll(60)
    with pytest.raises(ArtifactError, match="another run"), claimed(tmp_path):
        pass
    run.kill()
    psutil.Process(run.pid).wait(60)  # join() would wait for the worker as well
    with claimed(tmp_path), claimed(tmp_path):  # a process does not stand in its own way
        pass
    here.send("")  # the worker lives: otherwise nobody holds the pipe's other end
    here.close()


def test_a_failed_run_lets_its_folder_go(spawner, tmp_path, monkeypatch):
    bound = kills.bound(tmp_path, "lora", **SHORT)
    monkeypatch.setattr(swapping, "flush", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bound.train()
    assert spawner.run(kills.train, tmp_path, "lora", dict(SHORT), {}) == 0


@pytest.mark.ddp
@pytest.mark.parametrize("action", ["SIGKILL", "SIGSTOP"])
def test_a_process_whose_partner_is_gone_ends_with_a_line(action, spawner, tmp_path):
    """It waits in ftplug's own collectives, for no longer than ``ddp_timeout`` says."""
    out, timeout = tmp_path / "run", 10
    options = SHORT | {"port": kills.free_port(), "timeout": timeout}
    when = {"save": 1, "change": 8, "action": action}
    first = spawner.start(kills.train, out, "lora", options | {"rank": 0}, when)
    other = spawner.start(kills.train, out, "lora", options | {"rank": 1}, {})
    other.join(60 + timeout)
    code = other.exitcode
    for process in (first, other):
        process.kill()
        process.join()
    assert code == 1
    said = beside(out, kills.error_name(1)).read_text()
    assert said.startswith("process 1 waited for another process of this run")
    assert re.search("closed|reset" if action == "SIGKILL" else "[Tt]imed out waiting", said)
