"""What runs with the same trunk share: computed once, equal to the last bit, checked."""

import logging
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import tiny
import torch
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.lora import Lora
from ftplug_plugins.trunk_cache import segment, shared
from ftplug_plugins.trunk_cache.method import TrunkCache
from ftplug_plugins.trunk_cache.shared import SHARED_CACHE, SHARED_CACHE_BYTES, SharedStates
from runs import StopAt, losses, same, trainer, weights
from trunks import (
    batches,
    changed,
    padded,
    sentences,
    start,
    train_rows,
    trained_losses,
    trunk,
)

import ftplug

EXAMPLES = 12  # of ``batches``


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(SHARED_CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(base=None, layers=1, **settings):
    return ftplug.apply(base or tiny.bert(), Freeze(layers=layers), TrunkCache(**settings))


def trained(model=None):
    """Train by hand; return the losses, the weights, and the trunk with its counters."""
    model = model or cached()
    return trained_losses(model, batches(model)), weights(model), trunk(model)


def published(folder):
    return sorted(folder.glob(f"*/*{segment.SUFFIX}"))


def keys_in(folder):
    """Return the examples of all files, twice where they stand in two."""
    return [
        key
        for path in published(folder)
        for key in segment.read(path, path.parent.name.removeprefix("trunk-")).examples
    ]


def alone(monkeypatch, *settings):
    """Return what a run has that shares nothing."""
    with monkeypatch.context() as patch:
        patch.delenv(SHARED_CACHE)
        return trained(*settings)


# Equal, and computed once


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "vit"])
def test_the_second_run_computes_nothing_and_is_equal_to_the_last_bit(folder, monkeypatch, family):
    def fresh():
        return cached(tiny.FAMILIES[family](dropout=0.0 if family == "t5" else 0.1))

    expected, ended, _ = alone(monkeypatch, fresh())
    for computed in (EXAMPLES, 0):
        found, now, seen = trained(fresh())
        assert found == expected
        assert same(now, ended)
        assert seen.computed == computed
        assert seen.read == seen.read_shared - computed + seen.computed == 36 - computed
    assert shared.computed(folder) == {f"{socket.gethostname()}-{os.getpid()}": EXAMPLES}
    assert sorted(set(keys_in(folder))) == sorted(keys_in(folder))


def test_losses_equal_those_without_a_cache(folder):
    base = tiny.bert(dropout=0.0)
    plain = ftplug.apply(base, Freeze(layers=1))
    expected = trained_losses(plain, batches(plain))
    for _ in range(2):
        assert trained(cached(tiny.bert(dropout=0.0)))[0] == pytest.approx(expected, abs=1e-5)


def test_without_the_variable_nothing_is_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SHARED_CACHE, raising=False)
    for _ in range(2):
        assert trained()[2].computed == EXAMPLES
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_asks_for_no_cache_gets_none(folder):
    model = ftplug.apply(tiny.bert(), Freeze(layers=1))
    trained_losses(model, batches(model))
    assert not folder.exists()


def test_seeds_rates_heads_and_methods_share(folder, tmp_path):
    def run(seed, rate, *methods):
        torch.manual_seed(seed)
        model = tiny.bert(id2label={0: "no", 1: "yes"} if seed else {0: "a", 1: "b"})
        torch.nn.init.normal_(model.classifier.weight)
        bound = trainer(model, tmp_path / "out", learning_rate=rate, seed=seed, save_strategy="no")
        ftplug.attach(bound, *methods, TrunkCache()).train()
        return trunk(bound.model).computed

    assert run(0, 1e-3, Freeze(layers=1)) == 32
    assert run(1, 1e-2, Freeze(layers=1)) == 0
    assert run(2, 1e-2, Lora(r=2, layers_to_transform=(1,))) == 0


def test_the_end_of_training_says_what_was_saved(folder, tmp_path, caplog):
    for said in ("ran for 32 examples; 48 were read", "ran for 0 examples; 80 were read, 80 of"):
        with caplog.at_level(logging.INFO, "ftplug"):
            bound = trainer(tiny.bert(), tmp_path / "out", save_strategy="no")
            ftplug.attach(bound, Freeze(layers=1), TrunkCache()).train()
        assert caplog.text.count(said) == 1


def test_a_resumed_run_reads_what_it_computed_before(folder, tmp_path, monkeypatch):
    def run(out, **options):
        bound = trainer(tiny.bert(dropout=0.1), out, **options)
        return ftplug.attach(bound, Freeze(layers=1), TrunkCache())

    with monkeypatch.context() as patch:
        patch.delenv(SHARED_CACHE)
        straight = run(tmp_path / "a")
        straight.train()
    run(tmp_path / "b", callbacks=[StopAt(11)]).train()
    resumed = run(tmp_path / "b")
    resumed.train(resume_from_checkpoint=True)
    assert same(weights(resumed.model), weights(straight.model))
    assert losses(resumed) == losses(straight)
    assert trunk(resumed.model).computed == 0


# What is never mixed


@pytest.mark.parametrize(
    "other",
    [
        lambda: cached(layers=0),
        lambda: cached(dtype="bfloat16"),
        lambda: cached(tiny.bert().bfloat16()),
        lambda: cached(tiny.bert(attn_implementation="eager")),
        lambda: cached(tiny.bert(layer_norm_eps=1e-3)),
        lambda: cached(tiny.bert(hidden_act="relu")),
        lambda: cached(changed(tiny.bert(), "embeddings.word_embeddings.weight")),
        lambda: cached(changed(tiny.bert(), "encoder.layer.0.output.dense.bias")),
        lambda: cached(changed(tiny.bert(), "embeddings.position_ids")),
    ],
)
def test_another_trunk_has_a_folder_of_its_own(folder, monkeypatch, other):
    expected = alone(monkeypatch, other())[0]
    trained()
    found, _, seen = trained(other())
    assert found == expected
    assert seen.computed == EXAMPLES
    assert len(list(folder.iterdir())) == 2


def test_what_lies_above_the_cut_decides_nothing(folder):
    trained()
    for name in ("encoder.layer.1.output.dense.bias", "pooler.dense.weight"):
        assert trained(cached(changed(tiny.bert(), name)))[2].computed == 0


def test_threads_decide_the_last_bits(folder):
    trained()
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert trained()[2].computed == EXAMPLES
    finally:
        torch.set_num_threads(before)


def test_autocast_has_states_of_its_own(folder):
    for computed in (8, 0):
        model = cached().train()
        batch, found = padded(model, sentences(4)), []
        for enabled in (True, False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled), torch.no_grad():
                found.append(model(**batch).logits.float())
        assert torch.equal(found[0], found[2])
        assert not torch.equal(found[0], found[1])
        assert trunk(model).computed == computed
    assert len(list(folder.iterdir())) == 2


def test_weights_that_change_later_get_another_folder(folder):
    model = cached().train()
    batch = padded(model, sentences(4))
    model(**batch)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.mul_(2)
    model(**batch)
    assert trunk(model).computed == 8
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("how", ["hook", "forward", "quantized"])
def test_what_cannot_be_told_apart_is_not_shared(folder, caplog, how):
    model = cached()
    dense = model.bert.encoder.layer[0].output.dense
    if how == "hook":
        dense.register_forward_hook(lambda module, args, output: output * 2)
    elif how == "forward":
        dense.forward = lambda states: torch.nn.functional.linear(states, dense.weight)
    else:
        dense.weight = type("Packed", (torch.nn.Parameter,), {})(dense.weight.detach(), False)
    with caplog.at_level(logging.WARNING, "ftplug"):
        assert trained(model)[2].computed == EXAMPLES
    said = "quantized" if how == "quantized" else "hooks into the forward of Linear"
    assert caplog.text.count(said) == 1
    assert not folder.exists()


# Damage, limits, strangers


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "text", "name", "elsewhere"])
def test_damaged_and_foreign_files_are_computed_anew(folder, monkeypatch, caplog, damage):
    expected = alone(monkeypatch)[0]
    trained()
    first = published(folder)[0]
    content = first.read_bytes()
    if damage == "elsewhere":  # a whole file, of another trunk
        trained(cached(changed(tiny.bert(), "encoder.layer.0.output.dense.bias")))
        other = next(path for path in published(folder) if path.parent != first.parent)
        content = other.read_bytes()
    damaged = {"bit": content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], "cut": content[:-40],
               "empty": b"", "text": b"x" * 99}  # fmt: skip
    first.unlink()
    place = first.with_name(f"{'0' * 40}{segment.SUFFIX}") if damage == "name" else first
    place.write_bytes(damaged.get(damage, content))
    with caplog.at_level(logging.WARNING, "ftplug"):
        found, _, seen = trained()
    assert found == expected
    assert seen.computed == 4
    assert caplog.text.count("is not used, its examples are computed anew") == 1
    assert trained()[2].computed == 0  # the bad one went, the good one came
    assert caplog.text.count("is not used") == 1


def test_another_users_files_are_not_read(folder, monkeypatch, caplog):
    trained()
    user = os.geteuid()
    owned = os.lstat

    def theirs(path, *args, **kwargs):
        found = list(owned(path, *args, **kwargs))
        found[4] = user + (1 if str(path).endswith(segment.SUFFIX) else 0)
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", lambda self: theirs(self))
    assert trained()[2].computed == EXAMPLES
    assert caplog.text.count("another user wrote it") == 1
    assert len(published(folder)) == 3  # nor removed


@pytest.mark.parametrize(("mode", "uses"), [(0o755, True), (0o777, False), (0o1777, True)])
def test_a_folder_of_another_user_that_others_write_to_is_refused(folder, caplog, mode, uses):
    if os.geteuid() != 0:
        pytest.skip("only root may give a folder away")
    folder.mkdir()
    folder.chmod(mode)
    os.chown(folder, 12345, -1)
    trained()
    assert trained()[2].computed == (0 if uses else EXAMPLES)
    assert ("another user's, and others may write to it" in caplog.text) == (not uses)


def test_somebody_elses_folder_of_the_trunk_is_refused(folder, caplog):
    if os.geteuid() != 0:
        pytest.skip("only root may give a folder away")
    trained()
    os.chown(published(folder)[0].parent, 12345, -1)
    assert trained()[2].computed == EXAMPLES
    assert "is another user's" in caplog.text


@pytest.mark.parametrize("why", ["full", "limit", "read-only"])
def test_what_cannot_be_written_is_kept_by_the_run(folder, monkeypatch, caplog, why):
    expected = alone(monkeypatch)[0]
    model = cached()
    data = list(batches(model))
    if why == "limit":
        with torch.no_grad():
            cached().train()(**data[0])
        size = published(folder)[0].stat().st_size
        monkeypatch.setenv(SHARED_CACHE_BYTES, str(size + 100))
    else:
        error = (
            OSError(28, "No space left on device") if why == "full" else OSError(30, "Read-only")
        )

        def refuse(*args):
            raise error

        monkeypatch.setattr(os, "replace", refuse)
    with caplog.at_level(logging.WARNING, "ftplug"):
        found = trained_losses(model, data)
    assert found == expected
    assert caplog.text.count("what is new is kept by this run alone") == 1
    assert trunk(model).computed == (8 if why == "limit" else EXAMPLES)
    assert len(published(folder)) == (1 if why == "limit" else 0)
    assert not list(folder.glob(f"*/*{segment.UNFINISHED}"))


def test_a_limit_that_is_no_number_shares_nothing(folder, monkeypatch, caplog):
    monkeypatch.setenv(SHARED_CACHE_BYTES, "8 GiB")
    assert trained()[2].computed == EXAMPLES
    assert "FTPLUG_SHARED_CACHE_BYTES=8 GiB is no number of bytes" in caplog.text


def test_a_file_in_place_of_the_folder_shares_nothing(folder, caplog):
    folder.write_text("")
    assert trained()[2].computed == EXAMPLES
    assert caplog.text.count("not shared, this run computes for itself") == 1


def test_a_folder_that_is_removed_under_a_run_leaves_the_run(folder, monkeypatch):
    expected = alone(monkeypatch)[0]
    model = cached()
    data = list(batches(model))
    found = trained_losses(model, data[:1])
    assert len(found) == 1
    shutil.rmtree(folder)
    model = cached()
    assert trained_losses(model, data) == expected


def test_many_small_files_become_one(folder, monkeypatch):
    monkeypatch.setattr(shared, "_MANY", 3)
    expected = alone(monkeypatch)[0]
    first, second = cached(), cached()
    data = list(batches(first))
    with torch.no_grad():
        second.train()(**data[0])  # maps a file that goes
    assert trained_losses(first, data) == expected
    assert len(published(folder)) == 1
    assert len(keys_in(folder)) == EXAMPLES
    assert trained_losses(second, data) == expected
    assert (trunk(first).computed, trunk(second).computed) == (8, 4)


def test_what_is_read_is_mapped(folder):
    trained()
    [found] = trained()[2].shared.values()
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc")
    assert all(str(path) in maps.read_text() for path in published(folder))
    assert len(found) == EXAMPLES


# Several at once


def states(tmp_path, key="k"):
    folder = tmp_path / "trunk"
    folder.mkdir(exist_ok=True)
    return SharedStates(folder, key, shared.LIMIT)


def test_who_waits_gets_what_the_other_computed(tmp_path):
    one, other = states(tmp_path), states(tmp_path)
    values, entered = {b"a" * 16: torch.randn(3, 4)}, threading.Event()

    def fill():
        with one.filling(values) as held:
            assert held
            entered.set()
            time.sleep(0.1)
            one.publish(values, torch.float32)

    thread = threading.Thread(target=fill)
    thread.start()
    entered.wait()
    with other.filling(values):
        found = other.find(b"a" * 16)
    thread.join()
    assert found is not None
    assert found.equal(values[b"a" * 16])


def test_who_waits_in_vain_computes_and_waits_no_more(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shared, "_PATIENCE", 0.05)
    one, other = states(tmp_path), states(tmp_path)
    with one.filling([b"a" * 16]) as held:
        assert held
        for _ in range(3):
            with other.filling([b"b" * 16]) as second:
                assert not second
    assert caplog.text.count("has held its lock for") == 1
    with other.filling([b"b" * 16]) as later:
        assert later  # it is free again


def test_processes_of_one_run_do_not_wait_for_each_other(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    one, other = states(tmp_path), states(tmp_path)
    with one.filling([b"a" * 16]) as held, other.filling([b"b" * 16]) as second:
        assert (held, second) == (True, False)
    assert caplog.text == ""


def test_one_of_many_that_was_interrupted_is_made_again(tmp_path, monkeypatch):
    one, values = states(tmp_path), {bytes([n]) * 16: torch.randn(2, 4) for n in range(3)}
    with one.filling(values), monkeypatch.context() as patch:
        patch.setattr(shared, "_MANY", 3)
        patch.setattr(Path, "unlink", lambda *args, **kwargs: None)  # killed before it
        for key, value in values.items():
            one.publish({key: value}, torch.float32)
    assert len(list(one.folder.glob(f"*{segment.SUFFIX}"))) == 4
    monkeypatch.setattr(shared, "_MANY", 3)
    other, new = states(tmp_path), {b"new" * 4 + b"newk": torch.randn(1, 4)}
    with other.filling(new):
        assert other.publish(new, torch.float32)
        assert not other._make_one_of_many(torch.float32)
    again = states(tmp_path)
    assert len(list(one.folder.glob(f"*{segment.SUFFIX}"))) == 1
    assert all(again.find(key).equal(value) for key, value in (values | new).items())


@pytest.mark.slow
def test_two_processes_compute_each_example_once(folder, tmp_path):
    started = [start(tmp_path / f"{n}.pt", seed=n) for n in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    assert sum(shared.computed(folder).values()) == 32
    assert len(keys_in(folder)) == 32
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(SHARED_CACHE)
        for n in range(2):
            assert same(train_rows(seed=n), torch.load(tmp_path / f"{n}.pt"))


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_half_and_holds_nothing(folder, tmp_path, monkeypatch):
    process = start(tmp_path / "killed.pt", pause=30)
    end = time.monotonic() + 120
    while not list(folder.glob(f"*/*{segment.UNFINISHED}")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(keys_in(folder))
    assert 0 < before < 32
    monkeypatch.setattr(shared, "_PATIENCE", 0.0)  # nobody holds the lock: all is published
    expected = train_rows()
    assert not list(folder.glob(f"*/*{segment.UNFINISHED}"))
    assert len(set(keys_in(folder))) == len(keys_in(folder)) == 32
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(SHARED_CACHE)
        assert same(train_rows(), expected)
