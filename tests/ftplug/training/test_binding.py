"""The Trainer binding: three ways in, and a loud refusal for every silent failure."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import torch
from runs import METHODS, StopAt, logits, losses, rows, same, shake, trainer, weights
from transformers import Trainer, TrainerCallback

import ftplug
from ftplug import FTPlugCallback, Method, MethodError, hookimpl

everywhere = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def base():
    return tiny.bert(dropout=0.1)


def run(base, out, method, **options):
    model = copy.deepcopy(base)
    callbacks = [FTPlugCallback(method, **METHODS[method]), *options.pop("callbacks", [])]
    bound = trainer(model, out, callbacks=callbacks, **options)
    bound.train()
    return bound


# It trains what it should


@everywhere
def test_a_run_trains_exactly_what_may_train(base, tmp_path, method):
    bound = run(base, tmp_path, method, save_strategy="no")
    attached = bound.ftplug.attached
    after, before = weights(bound.model), weights(copy.deepcopy(base))
    moved = {
        n for n, old in attached.plan.existing.items() if not torch.equal(after[n], before[old])
    }
    frozen = {n for n in after if n not in attached.plan.may_train}
    assert {n for n in attached.plan.existing if not n.endswith("key.bias")} <= moved
    assert all(torch.equal(after[n], before[n.replace(".base_layer", "")]) for n in frozen)
    held = sum(len(g["params"]) for g in bound.optimizer.param_groups)
    assert held == len(attached.plan.may_train)


@everywhere
def test_attach_and_callback_give_identical_weights(base, tmp_path, method):
    first = run(base, tmp_path / "a", method, save_strategy="no")
    second = trainer(copy.deepcopy(base), tmp_path / "b", save_strategy="no")
    assert ftplug.attach(second, method, **METHODS[method]) is second
    second.train()
    assert losses(first) == losses(second)
    assert same(weights(first.model), weights(second.model))


@everywhere
def test_apply_before_the_trainer_is_adopted(base, tmp_path, method):
    first = run(base, tmp_path / "a", method, save_strategy="no")
    model = ftplug.apply(copy.deepcopy(base), method, **METHODS[method])
    callback = FTPlugCallback(method, **METHODS[method])
    second = trainer(model, tmp_path / "b", save_strategy="no", callbacks=[callback])
    second.train()
    assert same(weights(first.model), weights(second.model))


@everywhere
def test_model_init_is_prepared_every_time(base, tmp_path, method):
    first = run(base, tmp_path / "a", method, save_strategy="no")
    args = first.args
    second = Trainer(
        model_init=lambda: copy.deepcopy(base),
        args=args,
        train_dataset=rows(base),
        callbacks=[FTPlugCallback(method, **METHODS[method])],
    )
    built = second.model
    for _ in range(2):
        second.train()
        assert second.model is not built
        assert ftplug.attaching.attachment.attachment_of(second.model) is not None
        assert losses(second) == losses(first)


def test_the_trainers_own_class_stays_visible(base, tmp_path):
    class Mine(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            self.asked = True
            return super().compute_loss(model, inputs, return_outputs, **kwargs)

    bound = trainer(copy.deepcopy(base), tmp_path, cls=Mine, max_steps=1)
    ftplug.attach(bound, "lora")
    bound.train()
    assert isinstance(bound, Mine)
    assert type(bound).__name__ == "Mine"
    assert bound.asked


# Checkpoints


@everywhere
def test_the_best_model_is_loaded_at_the_end(base, tmp_path, method):
    scores = iter([0.1, 0.9, 0.2, 0.3])
    seen = {}

    class Remember(TrainerCallback):
        def on_save(self, args, state, control, model=None, **kwargs):
            seen[state.global_step] = weights(model)

    options = {
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_steps": 5,
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
        "save_total_limit": 2,
    }
    model = copy.deepcopy(base)
    callbacks = [FTPlugCallback(method, **METHODS[method]), Remember()]
    bound = trainer(model, tmp_path, callbacks=callbacks, **options)
    bound.compute_metrics = lambda prediction: {"accuracy": next(scores)}
    bound.train()
    assert bound.state.best_model_checkpoint == str(tmp_path / "checkpoint-10")
    assert same(weights(bound.model), seen[10])
    assert not same(weights(bound.model), seen[20])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-20"]
    state = json.loads((tmp_path / "checkpoint-20" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-10")
    bound.save_model(tmp_path / "artifact")
    content = json.loads((tmp_path / "artifact" / "ftplug.json").read_text())
    assert content["training"]["metrics"]["eval_accuracy"] == 0.9


@everywhere
def test_a_checkpoint_holds_what_may_train_and_no_more(base, tmp_path, method):
    bound = run(base, tmp_path, method, max_steps=1, save_steps=1)
    folder = tmp_path / "checkpoint-1"
    assert {path.name for path in folder.iterdir()} == {
        "ftplug_state.json", "ftplug_state.safetensors", "ftplug_files.json",
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json",
        "ftplug_batches_0.pth", "ftplug_batch.json",
    }  # fmt: skip
    trained = bound.ftplug.attached.plan.trained_count(bound.model)
    assert (folder / "ftplug_state.safetensors").stat().st_size <= 1.02 * 4 * trained + 16 * 1024


@everywhere
def test_a_checkpoint_loads_like_an_artifact(base, tmp_path, method):
    bound = run(base, tmp_path, method, max_steps=2, save_steps=2)
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "checkpoint-2")
    assert torch.equal(logits(loaded), logits(bound.model))


def test_a_checkpoint_being_written_is_not_there_yet(base, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    bound = run(base, tmp_path, "lora", max_steps=2, save_steps=1)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(ftplug.ArtifactError, match=r"cannot write .*No space left"):
        bound.train()  # writes checkpoint-1 again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    monkeypatch.undo()
    bound.train(resume_from_checkpoint=True)


def test_an_existing_checkpoint_is_replaced_whole(base, tmp_path):
    run(base, tmp_path, "lora", max_steps=1, save_steps=1)
    (tmp_path / "checkpoint-1" / "stray.txt").write_text("old")
    run(base, tmp_path, "freeze", max_steps=1, save_steps=1)
    assert not (tmp_path / "checkpoint-1" / "stray.txt").exists()
    content = json.loads((tmp_path / "checkpoint-1" / "ftplug_state.json").read_text())
    assert content["methods"][0]["name"] == "freeze"


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("lora", {"r": 8}, r"was trained with lora\(r=4.*this run is lora\(r=8"),
        ("full", {}, r"was trained with lora\(r=4.*this run is full"),
    ],
)
def test_resume_with_another_method_is_refused(base, tmp_path, method, settings, message):
    run(base, tmp_path, "lora", max_steps=1, save_steps=1)
    other = trainer(copy.deepcopy(base), tmp_path)
    ftplug.attach(other, method, **settings)
    with pytest.raises(MethodError, match=message):
        other.train(resume_from_checkpoint=True)


def test_resume_from_a_checkpoint_without_ftplug_is_refused(base, tmp_path):
    trainer(copy.deepcopy(base), tmp_path, max_steps=1, save_steps=1).train()
    other = trainer(copy.deepcopy(base), tmp_path)
    ftplug.attach(other, "full")
    with pytest.raises(ftplug.ArtifactError, match="written without ftplug"):
        other.train(resume_from_checkpoint=True)


def test_resume_from_an_altered_checkpoint_is_refused(base, tmp_path):
    bound = run(base, tmp_path, "lora", max_steps=1, save_steps=1)
    path = tmp_path / "checkpoint-1" / "ftplug_state.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ftplug.ArtifactError, match="truncated or altered"):
        bound.train(resume_from_checkpoint=True)


# Artifacts of a Trainer


@everywhere
def test_save_model_writes_the_artifact_with_the_runs_facts(base, tmp_path, method):
    bound = run(base, tmp_path / "out", method, eval_strategy="epoch", save_strategy="no")
    bound.save_model(tmp_path / "a")
    assert torch.equal(
        logits(ftplug.load(copy.deepcopy(base), tmp_path / "a")), logits(bound.model)
    )
    training = json.loads((tmp_path / "a" / "ftplug.json").read_text())["training"]
    assert training["data"] == {"train_rows": 32, "eval_rows": 8}
    assert training["steps"] == 20
    assert training["seed"] == 42
    assert training["hyperparameters"]["learning_rate"] == 1e-3
    assert training["seconds"] > 0
    assert training["peak_memory_bytes"] > 10**6
    assert "eval_loss" in training["metrics"]
    ftplug.save(bound.model, tmp_path / "b")  # knows the same facts
    assert json.loads((tmp_path / "b" / "ftplug.json").read_text())["training"] == training
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert "training_args.bin" not in names
    assert not any(name.endswith((".bin", ".pt")) for name in names)


def test_create_model_card_still_works(base, tmp_path):
    bound = run(base, tmp_path, "lora", max_steps=1, save_strategy="no")
    bound.save_model()
    bound.create_model_card(model_name="unmistakable")
    assert "# unmistakable\n" in (tmp_path / "README.md").read_text()
    ftplug.load(copy.deepcopy(base), tmp_path)


# Loud failures


def test_a_callback_added_too_late_names_the_cure(base, tmp_path):
    late = trainer(copy.deepcopy(base), tmp_path)
    late.add_callback(FTPlugCallback("lora"))
    with pytest.raises(MethodError, match=r"ftplug\.attach\(trainer, 'lora'\)"):
        late.train()


def test_a_callback_outside_a_trainer_says_so():
    with pytest.raises(MethodError, match="no Trainer is calling it"):
        FTPlugCallback("lora").on_init_end(None, None, None)


def test_a_users_optimizer_beside_added_parameters_is_refused(base, tmp_path):
    model = copy.deepcopy(base)
    plain = trainer(model, tmp_path)
    plain.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    untouched = str(model)
    with pytest.raises(MethodError, match=r"adds parameters \(.*lora_A.*optimizers="):
        ftplug.attach(plain, "lora")
    assert str(model) == untouched
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_users_optimizer_over_all_parameters_works_with_a_selection(base, tmp_path):
    model = copy.deepcopy(base)
    plain = trainer(model, tmp_path, save_strategy="no")
    plain.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = weights(model)
    ftplug.attach(plain, "freeze", layers=0).train()
    moved = {n for n, v in weights(model).items() if not torch.equal(v, before[n])}
    assert moved == {n for n in before if n.startswith(("bert.pooler", "classifier"))}


def test_an_optimizer_that_lacks_a_tensor_is_refused(base, tmp_path):
    class Forgetful(Trainer):
        def create_optimizer(self, model=None):
            parameters = [p for n, p in self.model.named_parameters() if "classifier" in n]
            self.optimizer = torch.optim.SGD(parameters, lr=0.1)
            return self.optimizer

    bound = trainer(copy.deepcopy(base), tmp_path, cls=Forgetful)
    ftplug.attach(bound, "lora")
    with pytest.raises(MethodError, match=r"does not hold .*lora_A.* \(8 of 10 tensors"):
        bound.train()


def test_two_bindings_of_one_trainer_are_refused(base, tmp_path):
    bound = trainer(copy.deepcopy(base), tmp_path)
    ftplug.attach(bound, "lora")
    both = r"attach\(trainer, 'lora', 'bitfit'\)"
    with pytest.raises(MethodError, match=rf"already has lora.* a new Trainer .*{both}"):
        ftplug.attach(bound, "bitfit")
    with pytest.raises(MethodError, match=r"already has lora.* with other settings take that off"):
        ftplug.attach(bound, "lora", r=4)
    with pytest.raises(MethodError, match="already has lora"):
        trainer(
            copy.deepcopy(base),
            tmp_path,
            callbacks=[FTPlugCallback("lora"), FTPlugCallback("freeze")],
        )


def test_attach_to_something_else_is_refused(base):
    with pytest.raises(MethodError, match=r"needs a transformers\.Trainer, not a BertFor"):
        ftplug.attach(copy.deepcopy(base), "lora")


def test_a_method_that_does_not_fit_is_refused_before_training(tmp_path):
    with pytest.raises(MethodError, match="prompt-tuning"):
        trainer(tiny.vit(), tmp_path, callbacks=[FTPlugCallback("prompt-tuning")])


def test_another_method_on_a_prepared_model_is_refused(base, tmp_path):
    model = ftplug.apply(copy.deepcopy(base), "freeze")
    with pytest.raises(MethodError, match="already carries freeze"):
        trainer(model, tmp_path, callbacks=[FTPlugCallback("lora")])


# The learning rate


def test_a_learning_rate_far_outside_the_range_is_warned_about(base, tmp_path, caplog):
    trainer(copy.deepcopy(base), tmp_path, learning_rate=5e-5, callbacks=[FTPlugCallback("lora")])
    assert "5e-05 is outside the usual range of lora" in caplog.text
    caplog.clear()
    trainer(copy.deepcopy(base), tmp_path, callbacks=[FTPlugCallback("lora")])
    assert caplog.text == ""


@pytest.mark.parametrize(("lr", "expected"), [("suggested", 1e-3), (2e-3, 2e-3), (None, 5e-4)])
def test_the_learning_rate_can_be_set(base, tmp_path, lr, expected):
    bound = trainer(copy.deepcopy(base), tmp_path, learning_rate=5e-4)
    ftplug.attach(bound, "lora", lr=lr)
    assert bound.args.learning_rate == expected
    bound.train()
    assert bound.optimizer.defaults["lr"] == expected


@pytest.mark.parametrize("lr", ["fast", -1, 0, float("inf")])
def test_a_learning_rate_that_is_none_is_refused(lr):
    with pytest.raises(MethodError, match="give 'suggested' or a positive number"):
        FTPlugCallback("lora", lr=lr)


# Hooks of other kinds


@dataclass(frozen=True, eq=False)
class Alternate(Method):
    """Train one layer per step, in turn."""

    name = "alternate"
    kind = "schedule"

    @hookimpl
    def select_trainable(self, model):
        return [n for n, _ in model.named_parameters() if ".layer." in n]

    @hookimpl
    def schedule_trainable(self, model, step):
        return [n for n, _ in model.named_parameters() if f".layer.{step % 2}." in n]


@dataclass(frozen=True, eq=False)
class Watch(Method):
    """Record what the step hooks are told."""

    name = "watch"
    kind = "regularizer"

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "seen", [])

    @hookimpl
    def on_gradients(self, model, step):
        grads = [n for n, p in model.named_parameters() if p.grad is not None]
        self.seen.append(("gradients", step, grads))

    @hookimpl
    def on_step(self, model, optimizer, step, total_steps):
        self.seen.append(("step", step, total_steps, type(optimizer).__name__))


@dataclass(frozen=True, eq=False)
class Sgd(Method):
    """Train with SGD."""

    rate: float = 0.1
    name = "sgd"
    kind = "optimizer"

    @hookimpl
    def build_optimizer(self, named_parameters):
        return torch.optim.SGD(named_parameters.values(), lr=self.rate)


@dataclass(frozen=True, eq=False)
class Sgd2(Sgd):
    """Train with SGD, too."""

    name = "sgd2"


def test_a_schedule_decides_which_layers_train(base, tmp_path):
    watch = Watch()
    bound = trainer(copy.deepcopy(base), tmp_path, max_steps=3, save_strategy="no")
    ftplug.attach(bound, Alternate(), watch)
    bound.train()
    gradients = [entry for entry in watch.seen if entry[0] == "gradients"]
    assert [step for _, step, _ in gradients] == [0, 1, 2]
    for _, step, names in gradients:
        assert any(f".layer.{step % 2}." in name for name in names)
        assert not any(f".layer.{1 - step % 2}." in name for name in names)
        assert "classifier.weight" in names  # the head is not the schedule's
    assert [e[1:] for e in watch.seen if e[0] == "step"] == [
        (step, 3, "AcceleratedOptimizer") for step in (1, 2, 3)
    ]
    assert all(p.requires_grad for n, p in bound.model.named_parameters() if ".layer." in n)


def test_a_schedule_resumes_exactly(base, tmp_path):
    straight = trainer(copy.deepcopy(base), tmp_path / "a", max_steps=6, save_steps=3)
    ftplug.attach(straight, Alternate()).train()
    resumed = trainer(copy.deepcopy(base), tmp_path / "b", max_steps=6, save_steps=3)
    ftplug.attach(resumed, Alternate())
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert same(weights(straight.model), weights(resumed.model))


def test_a_methods_optimizer_is_used_and_two_are_refused(base, tmp_path):
    bound = trainer(copy.deepcopy(base), tmp_path, save_strategy="no")
    ftplug.attach(bound, "lora", Sgd()).train()
    assert isinstance(bound.optimizer.optimizer, torch.optim.SGD)
    other = trainer(copy.deepcopy(base), tmp_path)
    ftplug.attach(other, "lora", Sgd(), Sgd2())
    with pytest.raises(MethodError, match="sgd and sgd2 each build an optimizer"):
        other.train()


def test_evaluation_and_prediction_work_untrained(base, tmp_path):
    bound = trainer(copy.deepcopy(base), tmp_path, callbacks=[FTPlugCallback("lora")])
    assert bound.evaluate()["eval_loss"] == pytest.approx(
        trainer(copy.deepcopy(base), tmp_path).evaluate()["eval_loss"]
    )


def test_continuing_from_an_artifact(base, tmp_path):
    model = shake(ftplug.apply(copy.deepcopy(base), "lora", r=4))
    folder = ftplug.save(model, tmp_path / "a")
    callback = FTPlugCallback("lora", r=4, start_from=folder)
    bound = trainer(copy.deepcopy(base), tmp_path / "out", callbacks=[callback])
    assert torch.equal(logits(bound.model), logits(model))
    with pytest.raises(MethodError, match="use the same method and settings to continue"):
        trainer(
            copy.deepcopy(base), tmp_path, callbacks=[FTPlugCallback("full", start_from=folder)]
        )
    other = shake(copy.deepcopy(base), 0.3)
    with pytest.raises(ftplug.ArtifactError, match="continue on the same base"):
        trainer(other, tmp_path, callbacks=[FTPlugCallback("lora", r=4, start_from=folder)])


def test_a_second_trainer_on_one_model_goes_on_where_the_first_ended(base, tmp_path):
    folder = ftplug.save(shake(ftplug.apply(copy.deepcopy(base), "lora", r=4)), tmp_path / "a")
    model = copy.deepcopy(base)
    callback = FTPlugCallback("lora", r=4, start_from=folder)
    trainer(model, tmp_path / "1", save_strategy="no", callbacks=[callback]).train()
    learned = weights(model)
    callback = FTPlugCallback("lora", r=4, start_from=folder)
    trainer(model, tmp_path / "2", callbacks=[callback])
    assert same(weights(model), learned)


def test_resume_on_another_base_or_head_is_refused(base, tmp_path):
    run(base, tmp_path, "lora", max_steps=1, save_steps=1)
    other = trainer(shake(copy.deepcopy(base), 0.3), tmp_path)
    ftplug.attach(other, "lora", r=4)
    with pytest.raises(ftplug.ArtifactError, match="continue on the same base"):
        other.train(resume_from_checkpoint=True)
    headless = trainer(copy.deepcopy(base), tmp_path)
    ftplug.attach(headless, "lora", r=4, train_head=False)
    with pytest.raises(MethodError, match="was trained with train_head=True"):
        headless.train(resume_from_checkpoint=True)


# Trainers that save in a way of their own


class SavesMore(Trainer):
    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        Path(output_dir, "more.txt").write_text("more")


class SavesItsOwnWay(Trainer):
    def save_model(self, output_dir=None, _internal_call=False):
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), Path(output_dir, "mine.pt"))


class NotesCheckpoints(Trainer):
    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        folder.mkdir(exist_ok=True)
        (folder / "more.txt").write_text("more")


class SavesOver(Trainer):
    """Saves the model itself, in checkpoints too, and then a file of the model once more."""

    def _save(self, output_dir=None, state_dict=None):
        self.model.save_pretrained(output_dir, state_dict=state_dict)
        config = Path(output_dir, "config.json")
        config.write_text(config.read_text() + "\n")


def test_what_a_trainer_writes_over_its_artifact_is_listed(base, tmp_path):
    options = {"cls": SavesOver, "max_steps": 2, "save_steps": 1}
    bound = trainer(copy.deepcopy(base), tmp_path, **options)
    ftplug.attach(bound, "full").train()
    bound.save_model(str(tmp_path))
    for folder in (tmp_path, tmp_path / "checkpoint-2"):
        assert (folder / "config.json").read_text().endswith("\n\n")
        assert same(weights(ftplug.load(copy.deepcopy(base), folder)), weights(bound.model))
    (tmp_path / "config.json").write_text("{}")  # not by the run
    with pytest.raises(ftplug.ArtifactError, match=r"config\.json"):
        ftplug.load(copy.deepcopy(base), tmp_path)


@pytest.mark.parametrize("cls", [SavesMore, SavesItsOwnWay, NotesCheckpoints])
def test_a_trainer_that_saves_more_still_does_and_resumes(base, tmp_path, cls):
    straight = trainer(copy.deepcopy(base), tmp_path / "a", cls=cls)
    ftplug.attach(straight, "lora", r=4).train()
    extra = "mine.pt" if cls is SavesItsOwnWay else "more.txt"
    for step in (10, 20):
        names = {path.name for path in (tmp_path / f"a/checkpoint-{step}").iterdir()}
        assert {extra, "ftplug_state.json", "optimizer.pt"} <= names
    resumed = trainer(copy.deepcopy(base), tmp_path / "b", cls=cls)
    ftplug.attach(resumed, "lora", r=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-10"))
    assert same(weights(straight.model), weights(resumed.model))


# What the manifest says of a run


def test_metrics_are_those_of_the_weights_that_are_saved(base, tmp_path):
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.7])
    options = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "no",
               "metric_for_best_model": "accuracy"}  # fmt: skip
    bound = trainer(copy.deepcopy(base), tmp_path, callbacks=[FTPlugCallback("lora")], **options)
    bound.compute_metrics = lambda prediction: {"accuracy": next(scores)}
    bound.train()

    def recorded():
        bound.save_model(tmp_path / "a")
        return json.loads((tmp_path / "a" / "ftplug.json").read_text())["training"]

    assert recorded()["metrics"]["eval_accuracy"] == 0.3  # the last step's, not the best one's
    bound.evaluate()
    assert recorded()["metrics"]["eval_accuracy"] == 0.7


def test_the_learning_rate_is_the_optimizers(base, tmp_path):
    model = copy.deepcopy(base)
    bound = trainer(model, tmp_path, max_steps=2, save_strategy="no")
    bound.optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    with pytest.raises(MethodError, match="lr= has no effect"):
        ftplug.attach(bound, "full", lr="suggested")
    ftplug.attach(bound, "full").train()
    bound.save_model(tmp_path / "a")
    training = json.loads((tmp_path / "a" / "ftplug.json").read_text())["training"]
    assert training["hyperparameters"]["learning_rate"] == 0.25


def test_an_interrupted_run_resumes_where_it_stopped(base, tmp_path):
    straight = run(base, tmp_path / "a", "lora")
    run(base, tmp_path / "b", "lora", callbacks=[StopAt(10)])
    resumed = trainer(copy.deepcopy(base), tmp_path / "b")
    ftplug.attach(resumed, "lora", r=4)
    resumed.train(resume_from_checkpoint=True)
    assert losses(straight)[10:] == losses(resumed)[10:]
    assert same(weights(straight.model), weights(resumed.model))


def test_a_batch_size_that_is_found_by_retrying_trains_from_the_start(base, tmp_path):
    class OutOfMemoryOnce(Trainer):
        tried = 0

        def training_step(self, *args, **kwargs):
            self.tried += 1
            if self.tried == 1:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(*args, **kwargs)

    options = {"save_strategy": "no", "auto_find_batch_size": True, "max_steps": 3}
    bound = trainer(copy.deepcopy(base), tmp_path, cls=OutOfMemoryOnce, **options)
    ftplug.attach(bound, "lora", r=4)
    before = weights(bound.model)
    bound.train()
    assert bound.state.global_step == 3
    moved = {n for n, v in weights(bound.model).items() if not torch.equal(v, before[n])}
    assert moved == set(bound.ftplug.attached.plan.may_train)


def test_a_model_that_carries_its_method_must_fit_the_trainer_too(tmp_path, monkeypatch):
    def refuse(trainer, host):
        raise MethodError(f"{host.names} does not fit")

    monkeypatch.setattr("ftplug.training.processes.check_launch", refuse)
    for model in (tiny.bert(), ftplug.apply(tiny.bert(), "lora")):
        with pytest.raises(MethodError, match="lora does not fit"):
            ftplug.attach(trainer(model, tmp_path), "lora")
