"""The trunk cache: equal to running the frozen layers each time, and they really do not run."""

import copy
import logging
import os
import pickle
from dataclasses import replace

import pytest
import tiny
import torch
from ftplug_plugins.bitfit import BitFit
from ftplug_plugins.bottleneck import Bottleneck
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.l2_sp import L2Sp
from ftplug_plugins.lora import Lora
from ftplug_plugins.prefix_tuning import PrefixTuning
from ftplug_plugins.prompt_tuning import PromptTuning
from ftplug_plugins.trunk_cache.method import TrunkCache
from ftplug_plugins.trunk_cache.store import TrunkStore
from ftplug_plugins.trunk_cache.trunk import TRUNK
from halves import straight_and_resumed
from runs import checkpoint, logits, losses, rows, same, trainer, weights
from trunks import batches, padded, runs_of_the_trunk, sentences, trained_losses, trunk

import ftplug
from ftplug import MethodError
from ftplug.host import Host
from ftplug.inplace import is_wrapped
from ftplug.testing import MethodContract
from ftplug.testing.compare import difference

TEXT = ["bert", "bert-token", "roberta", "distilbert", "gpt2", "llama", "qwen2", "t5"]
ONLY_HEAD = ["bert", "bert-token", "roberta", "distilbert", "vit"]  # a language model has no other


class TestTrunkCache(MethodContract):
    """The contract, resume to the last bit included."""

    method = "trunk-cache"
    beside = (Freeze(layers=1),)
    families = ("bert", "t5")
    test_composes = None  # adapters on all layers leave no frozen trunk: refused below

    def test_a_loaded_artifact_gives_equal_logits(self, case):
        """To 1e-5: the loaded one has not trained and runs its trunk in the shape of the batch."""
        ours, loaded = (dict(m.named_parameters()) for m in (case.run.model, case.loaded))
        assert difference(ours, loaded) is None
        assert torch.allclose(logits(case.loaded), logits(case.run.model), atol=1e-5)


def cached(model, layers=1, **settings):
    return ftplug.apply(model, Freeze(layers=layers), TrunkCache(**settings))


@pytest.mark.parametrize(
    ("family", "layers"),
    [(family, 1) for family in (*TEXT, "vit")] + [(family, 0) for family in ONLY_HEAD],
)
def test_losses_equal_those_of_a_trunk_that_runs(family, layers):
    dropout = 0.0 if family == "t5" else 0.1  # T5 has one module for dropout below and above
    base = tiny.FAMILIES[family](dropout=dropout)
    plain = ftplug.apply(copy.deepcopy(base), Freeze(layers=layers, frozen_eval=True))
    if family == "gpt2":
        plain.transformer.drop.p = 0.0  # of the embeddings, but without parameters
    caching = cached(base, layers=layers)
    ran = runs_of_the_trunk(caching)
    data = list(batches(base))
    expected = trained_losses(plain, data)
    first = trained_losses(caching, data[:3])
    assert len(ran) > 0
    trunk_runs = len(ran)
    assert first == pytest.approx(expected[:3], abs=1e-5)
    assert (trunk(caching).hits, trunk(caching).misses) == (0, 12)
    caching = cached(tiny.FAMILIES[family](dropout=dropout), layers=layers)
    ran = runs_of_the_trunk(caching)
    assert trained_losses(caching, data) == pytest.approx(expected, abs=1e-5)
    assert len(ran) == trunk_runs  # in the second and third epoch it did not run
    assert (trunk(caching).hits, trunk(caching).misses) == (24, 12)
    assert torch.allclose(logits(plain, data[0])[:, 0], logits(caching, data[0])[:, 0], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "t5", "gpt2", "bert"])
def test_padding_in_front_counts_only_where_positions_do(family):
    base = tiny.FAMILIES[family]()
    plain = ftplug.apply(copy.deepcopy(base), Freeze(layers=1, frozen_eval=True))
    caching = cached(base)
    data = list(batches(base, side="left"))
    assert trained_losses(caching, data) == pytest.approx(trained_losses(plain, data), abs=1e-5)
    read = [tuple(row) for batch in data for row in batch["input_ids"].tolist()]
    if family in ("llama", "t5"):
        read = [tuple(token for token in row if token) for row in read]
    known = len(read) - len(set(read))
    assert trunk(caching).hits == known == (24 if family in ("llama", "t5") else 1)


@pytest.mark.parametrize(
    ("methods", "base"),
    [
        ((Lora(layers_to_transform=(1,)), TrunkCache()), (Lora(layers_to_transform=(1,)),)),
        ((Bottleneck(layers=1), TrunkCache()), (Bottleneck(layers=1),)),
        ((Freeze(layers=1), TrunkCache(), L2Sp()), (Freeze(layers=1), L2Sp())),
        ((Freeze(layers=0), Lora(r=4, layers_to_transform=(1,)), TrunkCache()),
         (Freeze(layers=0), Lora(r=4, layers_to_transform=(1,)))),
        ((Freeze(train=("*.layer.1.*",)), TrunkCache()), (Freeze(train=("*.layer.1.*",)),)),
        ((Freeze(layers=0, frozen_eval=True), Lora(layers_to_transform=(1,)), TrunkCache()),
         (Freeze(layers=0, frozen_eval=True), Lora(layers_to_transform=(1,)))),
        ((TrunkCache(), Lora(layers_to_transform=(1,)), Freeze(layers=0, frozen_eval=True)),
         (Lora(layers_to_transform=(1,)), Freeze(layers=0, frozen_eval=True))),
    ],
)  # fmt: skip
def test_methods_on_the_top_layers_have_a_trunk(methods, base):
    plain, caching = ftplug.apply(tiny.bert(), *base), ftplug.apply(tiny.bert(), *methods)
    data = list(batches(plain))
    assert trained_losses(caching, data) == pytest.approx(trained_losses(plain, data), abs=1e-5)
    assert (trunk(caching).hits, trunk(caching).spec.depth) == (24, 1)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ((), r"embeddings.* trains: name beside it a method .* e\.g\. freeze"),
        ((Lora(r=4),), r"layer\.0 trains: restrict .*, lora: layers_to_transform=1\)"),
        ((Bottleneck(),), r"layer\.0 trains: restrict .*freeze and bottleneck: layers=1"),
        ((Freeze(layers=2),), r"layer\.0 trains: restrict .*freeze and bottleneck: layers=1"),
        ((Freeze(layers=1), BitFit()), r"embeddings\.LayerNorm\.bias trains"),
        ((Freeze(layers=1), PrefixTuning()), "another method changes what BertModel"),
        ((Freeze(layers=1), PromptTuning()), "another method changes what BertModel"),
        ((Freeze(layers=1), TrunkCache()), "'trunk-cache' is given twice"),
        ((Freeze(layers=1, train=("*word_embeddings*",)),), "word_embeddings.* trains"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_what_leaves_no_trunk_is_refused(methods, message, first):
    model = tiny.bert()
    before = weights(model)
    with pytest.raises(MethodError, match=message) as refused:
        ftplug.apply(model, *([TrunkCache(), *methods] if first else [*methods, TrunkCache()]))
    assert "\n" not in str(refused.value)
    assert same(weights(model), before)
    assert not any(TRUNK in module.__dict__ or is_wrapped(module) for module in model.modules())


def test_too_few_bytes_for_an_example_are_refused():
    """Only then is the width known."""
    model = cached(tiny.bert(), bytes=10).train()
    with pytest.raises(MethodError, match="bytes=10 holds no example"):
        model(**tiny.inputs(model))


@pytest.mark.parametrize(
    ("options", "name"), [({"neftune_noise_alpha": 5.0}, "neftune"), ({"torch_compile": True}, "")]
)
def test_a_trainer_that_changes_the_trunk_is_refused(tmp_path, options, name):
    with pytest.raises(MethodError, match=rf"trunk-cache: it does not combine with {name}\w+"):
        ftplug.attach(trainer(tiny.bert(), tmp_path, **options), "freeze", "trunk-cache")


def test_a_model_that_accelerate_compiles_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    bound = trainer(tiny.bert(), tmp_path)
    with pytest.raises(MethodError, match="combine with accelerate's dynamo_backend=eager: leave"):
        ftplug.attach(bound, Freeze(layers=1), "trunk-cache")


def test_a_rotary_embedding_that_remembers_is_refused():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(MethodError, match="depends on the longest row so far"):
        cached(tiny.llama(rope_parameters=rope))


def test_noise_in_the_trunk_is_refused():
    model = cached(tiny.bert()).train()
    layer = model.bert.encoder.layer[0].output
    layer.register_forward_hook(lambda module, args, output: output + torch.randn(output.shape))
    with pytest.raises(MethodError, match="BertModel: it answers differently each time"):
        model(**tiny.inputs(model))


def test_layers_that_hand_on_more_are_refused():
    model, seen = cached(tiny.bert()).train(), []
    model.bert.embeddings.register_forward_hook(lambda m, args, output: seen.append(output))
    model.bert.encoder.layer[1].register_forward_hook(lambda m, args, output: output + seen[-1])
    with pytest.raises(MethodError, match="hand on more than hidden states"):
        model(**tiny.inputs(model, length=8))


# What is stored


def test_the_least_recently_used_go_first():
    store = TrunkStore(4, torch.float32, 6 * 16, on_disk=False)  # slot 0 and five tokens
    values = {key: torch.randn(2, 4) for key in (b"a", b"b", b"c")}
    store.put(b"a", values[b"a"])
    store.put(b"b", values[b"b"])
    store.find(b"a")
    store.put(b"c", values[b"c"])
    assert store.find(b"b") is None
    assert len(store) == 2
    assert store.evicted == 1
    for key in (b"a", b"c"):
        assert store.read(store.find(key)).equal(values[key])
    store.put(b"d", torch.randn(6, 4))  # never fits: nothing goes for it
    assert store.find(b"d") is None
    assert len(store) == 2
    assert store.read(torch.tensor([[0, 0]])).eq(0).all()
    assert store.nbytes <= store.limit


def test_a_small_limit_holds_and_changes_no_loss():
    plain = ftplug.apply(tiny.bert(), Freeze(layers=1, frozen_eval=True))
    data = list(batches(plain))
    limit = 60 * tiny.HIDDEN * 4  # of about 120 tokens
    small = cached(tiny.bert(), bytes=limit)
    assert trained_losses(small, data) == pytest.approx(trained_losses(plain, data), abs=1e-5)
    assert 0 < trunk(small).store.nbytes <= limit
    assert trunk(small).store.evicted > 0
    assert trunk(small).misses > 12


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_file_is_mapped_and_leaves_nothing_behind(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    in_memory = cached(tiny.bert(), dtype=dtype)
    mapped = cached(tiny.bert(), dtype=dtype, on_disk=True)
    data = list(batches(in_memory))
    assert trained_losses(mapped, data) == trained_losses(in_memory, data)
    assert trunk(mapped).hits == 24
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def disk(monkeypatch):
    """Return a disk of eight slots, reserved four at a time; ``free`` may be changed."""

    class Disk:
        free, ends = 8 * 16, []

    def allocate(descriptor, offset, length):
        if offset + length > Disk.free:
            raise OSError(28, "No space left on device")
        real(descriptor, offset, length)
        Disk.ends.append(offset + length)

    real = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    monkeypatch.setattr("ftplug_plugins.trunk_cache.store._CHUNK", 4 * 16)
    return Disk


def test_a_full_disk_ends_the_growth_and_not_the_run(disk, caplog):
    store = TrunkStore(4, torch.float32, 2**31, on_disk=True)
    assert disk.ends == [64]  # of the 2 GiB it may come to
    values = {bytes([key]): torch.randn(3, 4) for key in range(5)}
    with caplog.at_level(logging.WARNING, "ftplug"):
        for key, value in values.items():
            store.put(key, value)
            assert store.read(store.find(key)).equal(value)
            assert store.nbytes <= disk.ends[-1]
        store.put(b"long", torch.randn(8, 4))
    assert disk.ends == [64, 128]
    assert (len(store), store.evicted) == (2, 3)
    assert store.find(b"long") is None
    [warning] = [record.getMessage() for record in caplog.records]
    assert "is full ([Errno 28] No space left on device): no more than 128 bytes" in warning


def test_a_disk_that_is_full_from_the_start_is_refused(disk):
    disk.free = 0
    with pytest.raises(MethodError, match=r"no room for 64 bytes .* let TMPDIR name another"):
        TrunkStore(4, torch.float32, 2**31, on_disk=True)


def test_bfloat16_takes_half_and_gives_the_same_at_first_sight():
    exact, half = cached(tiny.bert()), cached(tiny.bert(), dtype="bfloat16")
    data = list(batches(exact))
    expected, found = trained_losses(exact, data), trained_losses(half, data)
    assert found == pytest.approx(expected, abs=0.02)
    assert found != expected
    assert 2 * trunk(half).store.nbytes == trunk(exact).store.nbytes
    anew = cached(tiny.bert(), dtype="bfloat16")
    with torch.no_grad():
        twice = [float(anew.train()(**data[0]).loss) for _ in range(2)]
    assert twice[0] == twice[1]
    assert trunk(anew).hits == 4


def test_what_is_stored_depends_on_the_example_alone():
    texts = sentences(24)
    together, alone = cached(tiny.bert()).train(), cached(tiny.bert()).train()
    together(**padded(together, texts, more=3))
    for text in texts:
        alone(**padded(alone, [text]))
    batch = padded(together, texts)
    with torch.no_grad():
        first, second = together(**batch).logits, alone(**batch).logits
    assert torch.equal(first, second)
    assert trunk(together).hits == trunk(alone).hits == 24


def test_token_types_and_positions_are_content():
    model = cached(tiny.bert()).train()
    batch = padded(model, sentences(4))
    ones = torch.ones_like(batch["input_ids"])
    for more in ({}, {"token_type_ids": ones}, {"position_ids": ones[:1].cumsum(-1)}):
        plain = ftplug.apply(tiny.bert(), Freeze(layers=1))
        for _ in range(2):
            found, expected = model(**batch, **more).logits, logits(plain, batch | more)
            assert torch.allclose(found, expected, atol=1e-5)
            model.train()
    assert (trunk(model).hits, trunk(model).misses) == (12, 12)


def test_twins_in_a_batch_run_once():
    model = cached(tiny.bert()).train()
    text = sentences(1)[0]
    model(**padded(model, [text, text, text]))
    assert len(trunk(model).store) == 1


# Who uses it, and who does not


def test_evaluation_uses_it_once_the_model_has_trained():
    model = cached(tiny.bert())
    batch = padded(model, sentences(4))
    expected = logits(model, batch)
    assert trunk(model).store is None  # a model that only answers keeps nothing
    model.train()(**batch)
    ran = runs_of_the_trunk(model)
    assert torch.allclose(logits(model, batch), expected, atol=1e-6)
    assert not ran
    other = padded(model, sentences(4, seed=1))
    with torch.inference_mode():
        assert torch.equal(model(**other).logits, model(**other).logits)
    assert len(ran) > 0
    model.train()(**other).loss.backward()  # what inference mode stored can be trained on


@pytest.mark.parametrize(
    "asked", [{"output_hidden_states": True}, {"output_attentions": True}, {"embeds": True}]
)
def test_what_asks_for_more_runs_as_ever(asked):
    settings = {"attn_implementation": "eager"}
    plain = ftplug.apply(tiny.bert(**settings), Freeze(layers=1))
    model = cached(tiny.bert(**settings))
    batch = padded(model, sentences(4))
    model.train()(**batch)
    held, found = len(trunk(model).store), []
    for one in (plain, model):
        given = dict(batch)
        if "embeds" in asked:
            given["inputs_embeds"] = one.bert.embeddings.word_embeddings(given.pop("input_ids"))
        found.append(one.eval()(**given, **{k: v for k, v in asked.items() if k != "embeds"}))
    assert torch.equal(found[0].logits, found[1].logits)
    for name in ("hidden_states", "attentions"):
        pairs = zip(found[0].get(name) or (), found[1].get(name) or (), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert len(trunk(model).store) == held


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_generation_is_unchanged(family):
    plain = ftplug.apply(tiny.FAMILIES[family](), Freeze(layers=1))
    model = cached(tiny.FAMILIES[family]())
    batch = padded(model, sentences(3), side="left")
    model.train()(**batch)
    prompt = {name: batch[name] for name in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 4, "do_sample": False}
    expected = plain.eval().generate(**prompt, **settings)
    assert torch.equal(model.eval().generate(**prompt, **settings), expected)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradients_pass_activation_checkpoints(family, reentrant):
    gradients = []
    for checkpointing in (True, False):
        model = cached(tiny.FAMILIES[family]()).train()
        if checkpointing:
            checkpoint(model, use_reentrant=reentrant)
        for _ in range(2):
            model(**padded(model, sentences(4))).loss.backward()
        assert trunk(model).hits == 4
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert all(torch.allclose(g, gradients[1][n], atol=1e-6) for n, g in gradients[0].items())


def test_autocast_has_hidden_states_of_its_own():
    model = cached(tiny.bert()).train()
    batch = padded(model, sentences(4))
    found = []
    for enabled in (True, False, True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), torch.no_grad():
            found.append(model(**batch).logits.float())
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1])
    assert (trunk(model).hits, trunk(model).misses) == (8, 8)


def test_a_changed_trunk_is_read_anew():
    model = cached(tiny.bert()).train()
    batch = padded(model, sentences(4))
    before = model(**batch).logits
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.mul_(2)
    plain = copy.deepcopy(model)
    assert not torch.equal(model(**batch).logits, before)
    assert torch.allclose(model(**batch).logits, logits(plain, batch), atol=1e-6)


def test_disabled_does_not_ask_it():
    base, model = tiny.bert(), cached(tiny.bert()).train()
    batch = padded(model, sentences(4))
    model(**batch)
    ran = runs_of_the_trunk(model)
    with ftplug.disabled(model):
        assert torch.equal(logits(model, batch), logits(base, batch))
    assert len(ran) == 1


def test_a_known_batch_searches_no_layer(monkeypatch):
    searched, named_modules = [], torch.nn.Module.named_modules

    def noted(self, *args, **kwargs):
        searched.append(self)
        return named_modules(self, *args, **kwargs)

    model = cached(tiny.bert()).train()
    batch, layer = padded(model, sentences(4)), {*model.bert.encoder.layer[0].modules()}
    model(**batch)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "named_modules", noted)
        model(**batch)
    assert trunk(model).hits == 4
    assert not layer & {*searched}


def test_a_copy_starts_empty():
    model = cached(tiny.bert()).train()
    batch = padded(model, sentences(4))
    model(**batch)
    twin = copy.deepcopy(model)
    assert trunk(twin) is not trunk(model)
    assert trunk(twin).store is None
    twin.train()(**batch)
    assert (trunk(twin).misses, trunk(model).misses) == (4, 4)


def test_merging_and_saving_leave_it_out(tmp_path):
    model = cached(tiny.bert()).train()
    model(**padded(model, sentences(4)))
    saved = ftplug.save(model, tmp_path / "artifact")
    plain = ftplug.save(ftplug.apply(tiny.bert(), Freeze(layers=1)), tmp_path / "plain")
    sizes = [(p / "ftplug.safetensors").stat().st_size for p in (saved, plain)]
    assert sizes[0] == sizes[1]
    loaded = ftplug.load(tiny.bert(), saved)
    assert torch.equal(logits(loaded), logits(model))
    assert not any(TRUNK in module.__dict__ for module in loaded.modules())
    ftplug.merge(model)
    assert not any(TRUNK in module.__dict__ for module in model.modules())
    assert type(model.bert) is type(tiny.bert().bert)


# In a Trainer


class Texts:
    """Examples of different lengths; those of ``noisy`` texts differ each time."""

    def __init__(self, model, *, noisy=False):
        self.model, self.noisy, self.draw = model, noisy, torch.Generator().manual_seed(0)
        self.texts = sentences(32)

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        if not self.noisy:
            return {"text": self.texts[index]}
        return {"text": torch.randint(3, tiny.VOCAB, (20,), generator=self.draw)}

    def collate(self, examples):
        return padded(self.model, [example["text"] for example in examples])


def training_on_texts(tmp_path, *, noisy=False, cache=True, **options):
    defaults = {"num_train_epochs": 3, "max_steps": -1, "save_strategy": "no"}
    bound = trainer(tiny.bert(), tmp_path, remove_unused_columns=False, **defaults | options)
    bound.train_dataset = Texts(bound.model, noisy=noisy)
    bound.data_collator = bound.train_dataset.collate
    beside = [TrunkCache()] if cache else []
    return ftplug.attach(bound, Freeze(layers=1, frozen_eval=not cache), *beside)


def test_a_trainers_losses_are_equal(tmp_path, caplog):
    plain, caching = (training_on_texts(tmp_path, cache=cache) for cache in (False, True))
    plain.train()
    caching.train()
    assert losses(caching) == pytest.approx(losses(plain), abs=1e-5)
    assert (trunk(caching.model).hits, trunk(caching.model).misses) == (64, 32)
    assert "were known" not in caplog.text


@pytest.mark.parametrize(("noisy", "epochs", "said"), [(True, 3, 64), (False, 1, 32)])
def test_a_low_hit_rate_is_said_once(tmp_path, caplog, noisy, epochs, said):
    with caplog.at_level(logging.WARNING, "ftplug"):
        bound = training_on_texts(tmp_path, noisy=noisy, num_train_epochs=epochs)
        bound.train()
    [warning] = [r.getMessage() for r in caplog.records if "were known" in r.getMessage()]
    assert f"trunk-cache: of {said} examples only 0.0% were known" in warning


def test_resume_is_bit_equal_with_mixed_lengths(tmp_path, monkeypatch):
    import halves

    def on_texts(model, out, **options):
        bound = trainer(model, out, remove_unused_columns=False, **options)
        bound.train_dataset = Texts(model)
        bound.data_collator = bound.train_dataset.collate
        return bound

    monkeypatch.setattr(halves, "trainer", on_texts)
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, Freeze(layers=1), TrunkCache(), stop=11
    )
    assert same(weights(straight.model), weights(resumed.model))
    assert trunk(resumed.model).misses > 0


def test_rows_of_the_default_collator_are_known_again(tmp_path):
    bound = ftplug.attach(
        trainer(tiny.vit(), tmp_path, save_strategy="no"), Freeze(layers=1), "trunk-cache"
    )
    bound.train()
    assert trunk(bound.model).misses == len(rows(bound.model))


def test_a_loop_by_hand_is_judged_after_many_examples(monkeypatch, caplog):
    monkeypatch.setattr("ftplug_plugins.trunk_cache.trunk._MANY", 8)
    model = cached(tiny.bert()).train()
    with caplog.at_level(logging.WARNING, "ftplug"):
        for seed in range(4):
            model(**padded(model, sentences(4, seed=seed)))
    assert caplog.text.count("of 8 examples only 0.0% were known, 0 were pushed out") == 1


def test_settings_that_ask_for_nothing_are_not_on_the_card():
    from ftplug.method import settings_to_show

    assert settings_to_show(TrunkCache().settings()) == {}
    assert not {name for name in Lora().settings() if name.startswith("cache")}


@pytest.mark.parametrize("method", [Freeze, Lora, Bottleneck])
def test_steps_are_told_only_to_a_cache(method):
    idle, counting = method(), TrunkCache(on_disk=True)
    for one in (idle, replace(idle), pickle.loads(pickle.dumps(idle))):
        assert not Host([one]).implements("on_step")
        assert one.settings() == idle.settings()
    for one in (counting, replace(counting, on_disk=False), pickle.loads(pickle.dumps(counting))):
        assert Host([one]).implements("on_step")
    assert pickle.loads(pickle.dumps(counting)).settings() == counting.settings()


def test_packed_rows_are_masked_by_their_positions():
    """After a first batch that is not packed: what a row attends to is not in its tokens alone."""
    base = tiny.llama()
    model = cached(copy.deepcopy(base)).train()
    plain = ftplug.apply(copy.deepcopy(base), Freeze(layers=1)).train()
    batch = tiny.inputs(base)
    model(**batch)
    ids = batch["input_ids"][:2].clamp(min=3)
    packed = {
        "input_ids": ids,
        "labels": ids,
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]] * 2),
    }
    assert torch.equal(model(**packed).logits, plain(**packed).logits)
