"""A script that trains in processes of its own: they get the run's method, and count."""

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import script
import tiny
from ftplug_plugins.lora import Lora

import ftplug
from ftplug.training.running.telling import RUN, is_told
from ftplug.training.script import Launch

FOLDER = Path(sys.modules[Launch.__module__].__file__).parent / "running" / "path"
SUPPORT = str(Path(script.__file__).parent)
# Trains in a process that it starts in one of the ways, and then in its own.
TRAINS = f"""
import multiprocessing, os, subprocess, sys
sys.path.insert(0, {SUPPORT!r})

def train(out):
    import script, tiny
    from runs import trainer

    model = tiny.bert()
    bound = trainer(model, out, max_steps=2, save_strategy="no")
    bound.train_dataset = script.Rows(model)
    bound.train()
    bound.save_model(out)

if __name__ == "__main__":
    how, out, *own = sys.argv[1:]
    if how in ("spawn", "fork"):  # Python waits for it at its end
        multiprocessing.get_context(how).Process(target=train, args=(out,)).start()
    elif how == "subprocess":
        subprocess.run([sys.executable, __file__, "itself", out], check=True)
    elif how == "itself":
        train(out)
    for name in own:
        train(name)
"""


@pytest.fixture
def trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("trains.py").write_text(TRAINS)
    return "trains.py"


def trained(*command, methods=None, **options):
    """Run the script; return what the report says of its Trainers."""
    Launch(methods or [Lora(r=2)], report=Path("report.json"), **options).run(command)
    return json.loads(Path("report.json").read_text())["runs"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spawn", "subprocess"])
def test_a_child_and_the_script_itself_train_with_the_method(trains, how):
    before = dict(os.environ)
    runs = trained(trains, how, "child", "own")
    assert dict(os.environ) == before
    assert [run["tensors"]["moved"] for run in runs] == [10, 10]
    for name in ("child", "own"):
        assert json.loads(Path(name, "ftplug.json").read_text())["methods"][0]["name"] == "lora"
    assert (
        Path("child/adapter_model.safetensors").read_bytes()
        == Path("own/adapter_model.safetensors").read_bytes()
    )


def test_a_fork_that_trains_alone_counts(trains):
    runs = trained(trains, "fork", "child")
    assert [run["methods"][0]["settings"]["r"] for run in runs] == [2]
    assert json.loads(Path("child/ftplug.json").read_text())["methods"][0]["name"] == "lora"


def test_a_child_that_is_refused_ends_the_run_with_the_reason(trains, capfd):
    misfit = [Lora(target_modules=("nothing",))]
    with pytest.raises(ftplug.MethodError, match=r"that it started was refused: lora: .*nothing"):
        trained(trains, "fork", "child", methods=misfit)
    assert "matches no module" in capfd.readouterr().err


def test_without_a_place_for_records_a_child_is_refused(trains, capfd, monkeypatch):
    with monkeypatch.context() as nowhere:
        nowhere.setattr(tempfile, "tempdir", os.devnull + "/x")
        with pytest.raises(ftplug.MethodError, match="no transformers Trainer"):
            trained(trains, "fork", "child")
        assert [run["tensors"]["moved"] for run in trained(trains, "itself", "own")] == [10]
    assert "set TMPDIR" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("started", "why"),
    [
        ("'-I', 'empty.py'", r"started with -I\).*run … -- empty\.py"),
        ("'-uE', 'empty.py'", r"started with -uE\)"),
        ("'-S', '-c', '#train'", r"started with -S\).*run … -c …"),
        ("'empty.py'], env=dict(os.environ, PYTHONPATH='')", "its environment lacks"),
        ("'-u', 'empty.py'", None),
        ("'-I', '-c', '1'", None),
    ],
)
def test_a_python_that_is_not_reached_is_said(tmp_path, monkeypatch, caplog, started, why):
    monkeypatch.chdir(tmp_path)
    Path("empty.py").touch()
    words = f"[sys.executable, {started}" + ("" if "env" in started else "]")
    Path("starts.py").write_text(f"import os, subprocess, sys\nsubprocess.run({words})\n")
    with pytest.raises(ftplug.MethodError, match="no transformers Trainer"):
        trained("starts.py")
    if why is None:
        assert "no method reaches" not in caplog.text
    else:
        assert re.search(f"starts.py starts another Python process, .*{why}", caplog.text)


def test_a_process_of_multiprocessing_that_is_not_reached_is_said(trains, caplog):
    code = Path(trains).read_text().replace("how, out,", "os.environ.pop('FTPLUG_RUN'); how, out,")
    Path(trains).write_text(code.replace("def train(out):", "def train(out):\n    return\n"))
    with pytest.raises(ftplug.MethodError, match="no transformers Trainer"):
        trained(trains, "spawn", "child")
    assert "starts a process by multiprocessing, which no method reaches" in caplog.text


@pytest.mark.parametrize(
    ("end", "code"), [("argparse.ArgumentParser().parse_args()", 0), ("sys.exit(0)", 0)]
)
def test_a_script_that_ends_with_a_code_ends_with_that(tmp_path, monkeypatch, end, code):
    monkeypatch.chdir(tmp_path)
    Path("ends.py").write_text(f"import argparse, sys\n{end}\n")
    with pytest.raises(SystemExit) as ended:
        trained("ends.py", "--help")
    assert ended.value.code == code


# The sitecustomize itself, in Pythons that have next to nothing.

LOOKS = """
import json, sys
heavy = [n for n in ("torch", "ftplug", "transformers", "typing") if n in sys.modules]
place = [p for p in sys.path if p.endswith("running/path")]
print(json.dumps([heavy, place, type(sys.meta_path[0]).__name__]))
"""


def python(*command, told=True, path=()):
    places = [str(FOLDER), *map(str, path)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(places)}
    if told:
        environment[RUN] = json.dumps({"records": str(path[0]) if path else None})
        assert is_told(environment)
    done = subprocess.run(
        [sys.executable, *command],
        env=environment, cwd=FOLDER.parent, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_python_that_trains_nothing_imports_nothing(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('theirs')")
    for told in (True, False):
        code, said, wrong = python("-c", LOOKS, told=told, path=[tmp_path])
        assert (code, wrong) == (0, "")
        theirs, found = said.splitlines()
        assert theirs == "theirs"
        assert json.loads(found)[:2] == [[], []]
        assert (json.loads(found)[2] == "_Finder") == told


def test_a_python_without_ftplug_refuses_to_train(tmp_path):
    """What such a Python is: another one, with a transformers of its own."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers/__init__.py").touch()
    (tmp_path / "transformers/trainer_callback.py").write_text(
        "class CallbackHandler:\n    def __init__(self, callbacks): pass\n"
    )
    (tmp_path / "ftplug.py").write_text("raise ImportError('nothing here')")
    builds = """
        from transformers.trainer_callback import CallbackHandler
        print('imported')
        CallbackHandler([])
    """
    code, said, wrong = python("-c", textwrap.dedent(builds), path=[tmp_path])
    assert (code, said) == (1, "imported\n")
    assert "has no ftplug (nothing here), without which its training has no method" in wrong
    (record,) = tmp_path.glob("*.json")
    assert "has no ftplug" in json.loads(record.read_text())["refused"]


def test_a_run_within_a_run_has_its_own_method(tmp_path, monkeypatch):
    """A child may be ``ftplug run`` itself: the inner one counts there."""
    from transformers.trainer_callback import CallbackHandler

    asked, init = [], CallbackHandler.__init__

    def outer(self, callbacks, *args):
        asked.append(callbacks)
        init(self, callbacks, *args)

    outer.ftplug_init = init
    monkeypatch.setattr(CallbackHandler, "__init__", outer)
    with pytest.raises(SystemExit):
        Launch([Lora()]).run([script.__file__, "--out", str(tmp_path)])
    assert asked == []
    assert CallbackHandler.__init__ is outer
    assert ftplug.load(tiny.bert(), tmp_path)
