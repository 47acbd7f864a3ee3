"""What a user does to one of several models on a base afterwards: said, or refused by name."""

import gc

import pytest
import tiny
import torch
from runs import logits, same, shake, trainer, weights

import ftplug
from ftplug import MethodError
from ftplug.attaching.sharing_base import memory

WEIGHT = "bert.encoder.layer.0.intermediate.dense.weight"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    model = shake(ftplug.apply(tiny.bert(), "lora", r=4), 0.3)
    return ftplug.save(model, tmp_path_factory.mktemp("lora"), probe=False)


def pair(artifact):
    base = tiny.bert()
    return base, ftplug.load(base, artifact, share_base=True)


def disabling(model, folder):
    with ftplug.disabled(model):
        pass


def training(model, folder):
    own = trainer(model, folder / "run", max_steps=1)
    ftplug.attach(own, "lora", r=4)
    own.train()


def saving(model, folder):
    ftplug.save(model, folder / "artifact", probe=False)


def merging(model, folder):
    ftplug.merge(model)


DOING = {"disabled": disabling, "save": saving, "merge": merging, "train": training}
EACH = pytest.mark.parametrize("doing", DOING)
MOVES = {
    "to": lambda model: model.to(torch.float64),
    "half": lambda model: model.half(),
    "resized": lambda model: model.resize_token_embeddings(70, mean_resizing=False),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_model_that_was_moved_says_so_once_and_answers_as_before(move, artifact, caplog):
    base, model = pair(artifact)
    plain, before = logits(base), weights(base)
    MOVES[move](model)
    assert not caplog.messages
    disabling(model, None)
    assert "no longer shared" in caplog.text
    assert f"this {type(model).__name__} has moved" in caplog.text
    assert ("word_embeddings" in caplog.text) == (move == "resized") or move != "resized"
    caplog.clear()
    disabling(model, None)
    assert not caplog.messages
    assert torch.equal(logits(base), plain)
    assert same(weights(base), before)


@EACH
def test_each_of_them_says_that_the_base_has_moved(doing, artifact, tmp_path, caplog):
    base, model = pair(artifact)
    expected = logits(model)
    base.half()
    DOING[doing](model, tmp_path)
    assert f"{doing}: bert." in caplog.text
    assert "no longer shared" in caplog.text
    assert "its base has moved" in caplog.text
    caplog.clear()
    if doing not in ("train", "merge"):
        assert torch.equal(logits(model), expected)
        DOING[doing](model, tmp_path)
        assert not caplog.messages


def test_what_the_base_is_written_to_elsewhere_is_no_matter(artifact, tmp_path):
    base, model = pair(artifact)
    expected = logits(model)
    base.double()
    with torch.no_grad():
        base.get_parameter(WEIGHT).add_(1)
    saving(model, tmp_path)
    assert torch.equal(logits(model), expected)


@EACH
@pytest.mark.parametrize("by", ["base", "model"])
def test_a_base_that_was_written_to_is_refused(doing, by, artifact, tmp_path):
    base, model = pair(artifact)
    written = base.get_parameter(WEIGHT) if by == "base" else model.get_parameter(WEIGHT)
    with torch.no_grad():
        written[0, 1].add_(1)  # one value, which no sample has
    with pytest.raises(MethodError, match=f"{doing}: {WEIGHT}, which .* was written to since"):
        DOING[doing](model, tmp_path)
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize("doing", sorted(DOING.keys() - {"disabled"}))
def test_so_is_one_of_which_torch_counted_no_write(doing, artifact, tmp_path):
    base, model = pair(artifact)
    base.get_parameter(WEIGHT).data.mul_(2)
    with pytest.raises(MethodError, match=f"{doing}: {WEIGHT}, which .* was written to since"):
        DOING[doing](model, tmp_path)


@EACH
def test_a_shared_tensor_that_somebody_unfroze_is_refused(doing, artifact, tmp_path):
    _, model = pair(artifact)
    model.get_parameter(WEIGHT).requires_grad_(True)
    with pytest.raises(MethodError, match=f"{doing}: {WEIGHT} requires gradients, and other"):
        DOING[doing](model, tmp_path)


@pytest.mark.parametrize("whose", ["base", "model"])
def test_no_optimizer_steps_on_what_models_share(whose, artifact):
    base, model = pair(artifact)
    before, expected = weights(base), logits(model)
    trained = base if whose == "base" else model
    trained.get_parameter(WEIGHT).requires_grad_(True)
    optimizer = torch.optim.AdamW(trained.parameters())
    trained(**tiny.inputs(trained)).loss.backward()
    with pytest.raises(MethodError, match=r"AdamW would train the base: bert\..* is shared with"):
        optimizer.step()
    assert same(weights(base), before)
    assert torch.equal(logits(model), expected)


def test_the_bare_base_trains_nothing_that_is_shared(artifact, tmp_path):
    base, model = pair(artifact)
    before, expected = weights(base), logits(model)
    with pytest.raises(MethodError, match=r"^full: bert\..* is shared with a BertFor.*share_base"):
        ftplug.apply(base, "full")
    with pytest.raises(MethodError, match=r"^bitfit: bert\..* is shared with"):
        ftplug.attach(trainer(base, tmp_path), "bitfit")
    with pytest.raises(MethodError, match="would train the base"):
        trainer(base, tmp_path, max_steps=1).train()
    assert same(weights(base), before)
    assert same(weights(ftplug.apply(base, "lora", r=4)), weights(base))
    shake(base)  # its head, and an adapter of its own
    assert torch.equal(logits(model), expected)


def test_a_base_that_nobody_shares_any_more_trains(artifact):
    base, model = pair(artifact)
    del model
    gc.collect()
    ftplug.apply(base, "full")
    base(**tiny.inputs(base)).loss.backward()
    torch.optim.SGD(base.parameters(), lr=0.1).step()


def test_a_model_that_outlives_its_base_answers_and_saves(artifact, tmp_path, caplog):
    base, model = pair(artifact)
    expected = logits(model)
    del base
    gc.collect()
    saving(model, tmp_path)
    assert torch.equal(logits(model), expected)
    assert not caplog.messages


def test_a_tensor_where_a_shared_one_lay_before_is_anybody_s(artifact, monkeypatch):
    base, model = pair(artifact)
    place, mine = memory.where(model.get_parameter(WEIGHT)), torch.nn.Parameter(torch.ones(3))
    real = memory.where
    monkeypatch.setattr(memory, "where", lambda t: place if t is mine else real(t))
    mine.grad = torch.ones_like(mine)
    with pytest.raises(MethodError, match=WEIGHT):
        torch.optim.SGD([mine], lr=0.1).step()
    model.double()
    base.double()
    torch.optim.SGD([mine], lr=0.1).step()
