"""Other versions of transformers: refused by name, warned of, or adapted; never silently inert."""

import copy
import logging
from importlib import metadata
from types import SimpleNamespace

import pytest
import tiny
from runs import trainer
from transformers import Trainer

import ftplug
from ftplug import MethodError, cli
from ftplug.training import compat
from ftplug.training.bound_trainer import SavingTrainer, TrainerMixin
from ftplug.training.trainer_names import (
    ATTRIBUTES,
    OWN,
    PARAMETERS,
    check_trainer,
    missing_names,
    overrides,
)

OVERRIDDEN = overrides(TrainerMixin, SavingTrainer)
CALLED = [name for name in PARAMETERS if name not in OVERRIDDEN]
WITH_PARAMETERS = [(name, p) for name, parameters in PARAMETERS.items() for p in parameters]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv(compat.ALLOW, raising=False)
    compat._say_once.cache_clear()


@pytest.fixture(scope="module")
def base():
    return tiny.bert()


def renamed(monkeypatch, name):
    """Let a method of the Trainer have another name, as a release may."""
    monkeypatch.setattr(Trainer, f"{name}_anew", getattr(Trainer, name), raising=False)
    owner = next(cls for cls in Trainer.__mro__ if name in vars(cls))
    monkeypatch.delattr(owner, name)


def refusal(base, tmp_path):
    """Return what attaching is refused with."""
    with pytest.raises(MethodError) as refused:
        ftplug.attach(trainer(copy.deepcopy(base), tmp_path), "bitfit")
    return str(refused.value)


def test_every_name_is_there():
    assert missing_names(Trainer, OVERRIDDEN) == []


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
def test_a_renamed_method_is_refused_by_name(base, tmp_path, monkeypatch, name):
    bound = trainer(copy.deepcopy(base), tmp_path)
    renamed(monkeypatch, name)
    with pytest.raises(MethodError, match=rf"lacks of the Trainer:.* {name} \(is gone\)") as told:
        ftplug.attach(bound, "bitfit")
    assert "\n" not in str(told.value)
    assert "pip install" in str(told.value)
    assert type(bound) is Trainer, "nothing was changed"
    assert not any(p.requires_grad is False for p in bound.model.parameters())


@pytest.mark.parametrize(("name", "parameter"), WITH_PARAMETERS)
def test_a_method_that_lost_a_parameter_is_refused_by_name(
    base, tmp_path, monkeypatch, name, parameter
):
    bound = trainer(copy.deepcopy(base), tmp_path)
    others = ", ".join(p for p in PARAMETERS[name] if p != parameter)
    monkeypatch.setattr(Trainer, name, eval(f"lambda self, {others}: None"))
    with pytest.raises(MethodError, match=rf"{name} \(takes no {parameter}\)"):
        ftplug.attach(bound, "bitfit")


def test_a_method_that_nobody_calls_any_more_is_refused_by_name(base, tmp_path, monkeypatch):
    bound = trainer(copy.deepcopy(base), tmp_path)
    callers = [
        name for name, f in vars(Trainer).items()
        if "_clip_grad_norm" in getattr(getattr(f, "__code__", None), "co_names", ())
    ]  # fmt: skip
    assert callers
    for caller in callers:
        monkeypatch.setattr(Trainer, caller, lambda self, **anything: None)
    with pytest.raises(MethodError, match=r"_clip_grad_norm \(is called by nobody\)"):
        ftplug.attach(bound, "bitfit")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_that_is_not_set_is_refused_by_name(name):
    class Without:
        def __getattr__(self, asked):
            if asked == name:
                raise AttributeError(asked)

    with pytest.raises(MethodError, match=rf"{name} \(is not set\)"):
        check_trainer(Without(), ())


def test_what_is_listed_as_our_own_is_no_name_of_the_trainer():
    ours = {n for cls in (TrainerMixin, SavingTrainer) for c in cls.__mro__ for n in vars(c)}
    assert ours >= OWN
    assert not [name for name in OWN if hasattr(Trainer, name)]


def test_a_subclass_that_overrides_them_itself_is_bound(base, tmp_path):
    class Own(Trainer):
        def _clip_grad_norm(self, whole):
            return super()._clip_grad_norm(whole)

        def create_optimizer(self, *anything):
            return super().create_optimizer(*anything)

    plain = trainer(copy.deepcopy(base), tmp_path)
    bound = Own(plain.model, plain.args, train_dataset=plain.train_dataset)
    assert isinstance(ftplug.attach(bound, "bitfit"), Own)


# Versions


def test_a_version_newer_than_tested_is_said_once_and_runs(base, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("transformers.__version__", "5.99.1")
    with caplog.at_level(logging.WARNING, "ftplug"):
        for folder in "ab":
            ftplug.attach(trainer(copy.deepcopy(base), tmp_path / folder), "bitfit")
    said = [r.message for r in caplog.records if "5.99.1" in r.message]
    assert len(said) == 1
    assert "is tested with transformers 5.4 to " in said[0]
    assert compat.untested_version() == "5.99.1"


@pytest.mark.parametrize("version", [compat.TESTED[0], f"{compat.TESTED[1]}.7", "5.10.0"])
def test_a_tested_version_is_not_spoken_of(version, monkeypatch, caplog):
    monkeypatch.setattr("transformers.__version__", version)
    compat.check_transformers()
    assert compat.untested_version() is None
    assert not caplog.records


def test_a_development_version_counts_as_newer(monkeypatch):
    major, minor = map(int, compat.TESTED[1].split("."))
    monkeypatch.setattr("transformers.__version__", f"{major}.{minor + 1}.0.dev0")
    assert compat.untested_version() is not None


def test_an_older_version_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.__version__", "5.3.0")
    assert "5.3.0 is older" in refusal(base, tmp_path)


def test_a_known_bad_version_is_refused_with_the_reason(base, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.__version__", "5.11.9")
    monkeypatch.setitem(compat.KNOWN_BAD, "5.11.9", "it forgets the last batch")
    said = refusal(base, tmp_path)
    assert "5.11.9 does not work with ftplug: it forgets the last batch" in said


def test_the_user_may_go_on_with_a_warning(base, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(compat.KNOWN_BAD, compat.transformers_version(), "it forgets")
    monkeypatch.setenv(compat.ALLOW, "allow")
    ftplug.attach(trainer(copy.deepcopy(base), tmp_path), "bitfit")
    assert [r.message for r in caplog.records if "it forgets" in r.message]


# What ftplug declares


@pytest.fixture
def old_peft(monkeypatch):
    own = metadata.version
    monkeypatch.setattr(
        compat.metadata, "version", lambda name: "0.17.1" if name == "peft" else own(name)
    )


def test_a_library_out_of_bounds_is_refused_before_the_script_runs(
    old_peft, tmp_path, monkeypatch, capsys
):
    script = tmp_path / "script.py"
    script.write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ftplug", "run", "--method", "lora", "--", str(script)])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert "needs peft" in said
    assert "(found 0.17.1): pip install 'peft" in said
    assert not (tmp_path / "ran").exists()


def test_the_list_of_methods_says_it_too(old_peft, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ftplug", "methods"])
    with pytest.raises(SystemExit):
        cli.main()
    captured = capsys.readouterr()
    assert "(found 0.17.1)" in captured.err
    assert "  lora " in captured.out


def test_what_is_installed_here_is_declared():
    assert compat.unmet_requirements() == {}


# The differences, on whichever side of them the installed version is


def test_private_reaches_the_repository_that_is_created():
    seen = []
    args = SimpleNamespace(hub_private_repo=None)

    class Old:
        def init_hf_repo(self, token=None):
            seen.append((token, args.hub_private_repo))

    old = Old()
    old.args = args
    compat.init_hf_repo(old, "t", private=True)
    assert (seen, args.hub_private_repo) == ([("t", True)], None)
    new = SimpleNamespace(init_hf_repo=lambda token=None, private=None: seen.append(private))
    compat.init_hf_repo(new, "t", private=False)
    assert seen[-1] is False


def test_the_hub_client_is_transformers_own_where_it_has_one(monkeypatch):
    from transformers.utils import hub

    monkeypatch.setattr(hub, "hf_api", lambda: "theirs", raising=False)
    assert compat.hf_api() == "theirs"
    monkeypatch.delattr(hub, "hf_api")
    assert compat.hf_api() is compat.hf_api()
