"""Several artifacts on one base in memory: each answers as loaded alone, and means itself."""

import copy
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from runs import logits, same, shake, trainer, weights

import ftplug
from ftplug.attaching.sharing_base.shared import shared_by
from ftplug.structure import named_tensors

SETTINGS = {"lora": {"r": 4}, "bitfit": {}, "bottleneck": {"reduction_factor": 4}, "full": {}}


def address(tensor):
    return tensor.untyped_storage().data_ptr()


def shared(model, base):
    """Return the names of a model's tensors that lie in the memory of the base's."""
    places = {address(tensor) for tensor in base.parameters()}
    return {name for name, tensor in named_tensors(model).items() if address(tensor) in places}


def answer(model, seed):
    with torch.no_grad():
        return model(**tiny.inputs(model, seed=seed)).logits


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """One artifact of each method, and of LoRA another one."""

    @functools.cache
    def saved(method, scale=0.3):
        model = shake(ftplug.apply(tiny.bert(), method, **SETTINGS[method]), scale)
        return ftplug.save(model, tmp_path_factory.mktemp(method), probe=False)

    return saved


def test_the_base_stays_bare_and_each_model_answers_as_loaded_alone(artifacts):
    base = tiny.bert()
    base.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    flags, mode = [p.requires_grad for p in base.parameters()], base.train().training
    before, objects = weights(base), list(base.parameters())
    folders = [artifacts(method) for method in SETTINGS] + [artifacts("lora", 0.1)]
    for folder in (*folders, *folders):
        model = ftplug.load(base, folder, share_base=True)
        assert torch.equal(logits(model), logits(ftplug.load(tiny.bert(), folder)))
        assert model is not base
        assert not model.training
    assert same(weights(base), before)
    assert [p.requires_grad for p in base.parameters()] == flags
    assert base.training is mode
    assert all(one is other for one, other in zip(base.parameters(), objects, strict=True))
    assert {"save_pretrained", "_ftplug"}.isdisjoint(vars(base))
    assert torch.equal(logits(ftplug.load(base, folders[0])), logits(model_alone(folders[0])))


def model_alone(folder):
    return ftplug.load(tiny.bert(), folder)


def test_what_trained_is_its_own_and_all_else_is_the_base_s_memory(artifacts, caplog):
    base = tiny.bert()
    names = {name for name, _ in base.named_parameters()}
    biases = {name for name in names if name.endswith("bias")}
    head = {name for name in names if name.startswith("classifier")}
    lora = ftplug.load(base, artifacts("lora"), share_base=True)
    assert {n.replace(".base_layer", "") for n in shared(lora, base)} == names - head
    bitfit = ftplug.load(base, artifacts("bitfit"), share_base=True)
    assert shared(bitfit, base) == names - head - biases
    assert not caplog.messages
    full = ftplug.load(base, artifacts("full"), share_base=True)
    assert not shared(full, base)
    assert "has all of the base trained: nothing of it is shared" in caplog.text


def test_buffers_modules_and_config_are_its_own(artifacts):
    base = tiny.bert()
    model = ftplug.load(base, artifacts("lora"), share_base=True)
    theirs = {address(buffer) for buffer in base.buffers()}
    assert theirs
    assert theirs.isdisjoint(address(buffer) for buffer in model.buffers())
    assert {id(m) for m in base.modules()}.isdisjoint(id(m) for m in model.modules())
    model.config.id2label = {0: "no", 1: "yes"}
    assert base.config.id2label != model.config.id2label


def test_what_is_tied_is_tied_within_the_copy(tmp_path):
    def tied():
        return tiny.llama(tie_word_embeddings=True)

    trained = shake(ftplug.apply(tied(), "freeze", train=("*embed_tokens*",)))
    ftplug.save(trained, tmp_path, probe=False)
    base = tied()
    before, own = logits(base), base.lm_head.weight
    model = ftplug.load(base, tmp_path, share_base=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight is not own
    assert torch.equal(logits(model), logits(trained))
    assert torch.equal(logits(base), before)
    assert base.lm_head.weight is base.model.embed_tokens.weight is own


def test_disabled_merge_and_save_mean_the_model_they_are_called_on(artifacts, tmp_path):
    base, folders = tiny.bert(), [artifacts("lora"), artifacts("lora", 0.1)]
    one, other = (ftplug.load(base, folder, share_base=True) for folder in folders)
    expected, plain = [logits(one), logits(other)], logits(base)
    assert not torch.equal(*expected)
    with ftplug.disabled(one):
        assert torch.equal(logits(one), plain)
        assert torch.equal(logits(other), expected[1])
    again = ftplug.save(one, tmp_path, probe=False)
    for path in folders[0].glob("*.safetensors"):
        assert (again / path.name).read_bytes() == path.read_bytes()
    ftplug.merge(one)
    torch.testing.assert_close(logits(one), expected[0])
    assert torch.equal(logits(other), expected[1])
    assert torch.equal(logits(base), plain)
    assert not shared(one, base)


def test_a_merge_that_is_refused_shares_as_before(artifacts, monkeypatch):
    base = tiny.bert()
    model = ftplug.load(base, artifacts("lora"), share_base=True)
    before = shared(model, base)
    expected = logits(model)
    [method] = model._ftplug.host.methods

    def fails(model):
        with torch.no_grad():
            next(model.parameters()).zero_()
        raise ftplug.MethodError("not this one")

    monkeypatch.setattr(type(model._ftplug.host), "call", lambda self, hook, model: fails(model))
    with pytest.raises(ftplug.MethodError, match="not this one"):
        ftplug.merge(model)
    monkeypatch.undo()
    assert method.name == "lora"
    assert shared(model, base) == before
    assert torch.equal(logits(model), expected)


def test_two_train_side_by_side(artifacts, tmp_path):
    base = tiny.bert()
    before, plain = weights(base), logits(base)
    models = [ftplug.load(base, artifacts(m), share_base=True) for m in ("lora", "bitfit")]
    alone = [ftplug.load(tiny.bert(), artifacts(method)) for method in ("lora", "bitfit")]
    for number, pair in enumerate(zip(models, alone, strict=True)):
        for which, model in enumerate(pair):
            own = trainer(model, tmp_path / f"{number}{which}", max_steps=3)
            ftplug.attach(own, *model._ftplug.host.methods)
            own.train()
        assert torch.equal(*map(logits, pair))
    assert torch.equal(logits(models[0]), logits(alone[0]))
    assert same(weights(base), before)
    with ftplug.disabled(models[1]):
        assert torch.equal(logits(models[1]), plain)


def test_side_by_side_step_by_step(artifacts):
    base = tiny.bert()
    before = weights(base)
    models = [ftplug.load(base, artifacts(m), share_base=True) for m in ("lora", "bitfit")]
    first = [logits(model) for model in models]
    trained = [[p for p in model.parameters() if p.requires_grad] for model in models]
    optimizers = [torch.optim.AdamW(parameters, lr=1e-2) for parameters in trained]
    for model, optimizer in (*zip(models, optimizers, strict=True),) * 2:
        model(**tiny.inputs(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not any(torch.equal(logits(m), then) for m, then in zip(models, first, strict=True))
    assert same(weights(base), before)


def test_eight_threads_on_four_models_answer_as_one_does(artifacts):
    base = tiny.bert()
    folders = [artifacts("lora"), artifacts("bitfit"), artifacts("bottleneck"), artifacts("full")]
    models = [ftplug.load(base, folder, share_base=True) for folder in folders]
    expected = [[answer(model, seed) for seed in range(5)] for model in models]

    def calls(thread):
        wrong = 0
        for call in range(200):
            model, seed = (thread + call) % 4, call % 5
            wrong += not torch.equal(answer(models[model], seed), expected[model][seed])
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(calls, range(8))) == [0] * 8


def test_a_deepcopy_and_a_pickle_share_nothing(artifacts):
    base = tiny.bert()
    model = ftplug.load(base, artifacts("lora"), share_base=True)
    twin = copy.deepcopy(model)
    assert not shared(twin, base)
    assert shared_by(twin) is None
    assert not pickle.loads(pickle.dumps(shared_by(model))).tensors
    shake(twin.requires_grad_(True))
    assert torch.equal(logits(model), logits(model_alone(artifacts("lora"))))
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))


def test_a_state_dict_goes_into_memory_of_its_own(artifacts):
    base = tiny.bert()
    plain, model = logits(base), ftplug.load(base, artifacts("bitfit"), share_base=True)
    values = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(values)
    assert torch.equal(logits(base), plain)
    assert same(weights(model), values)


def test_methods_put_on_the_base_itself_write_to_no_other_model_s_memory(artifacts):
    """olora writes over the base's weights while it is put on, and merging does."""
    base = tiny.bert()
    model = ftplug.load(base, artifacts("lora"), share_base=True)
    expected, values = logits(model), weights(model)
    before = shared(model, base)
    ftplug.apply(base, "olora", r=4)
    assert same(weights(model), values)
    assert shared(model, base) == before
    shake(base)
    ftplug.merge(base)
    assert torch.equal(logits(model), expected)
    assert not shared(model, base)


def test_the_artifact_s_probe_is_asked_on_a_shared_base_too(tmp_path):
    model = shake(ftplug.apply(tiny.bert(), "lora", r=4), 0.3)
    ftplug.save(model, tmp_path)
    base = tiny.bert()
    loaded = ftplug.load(base, tmp_path, share_base=True)
    assert torch.equal(logits(loaded), logits(model))
