"""In a notebook: what attach shows, and errors that are as long as what they have to say."""

import copy
import linecache

import pytest
import tiny
from runs import trainer
from transformers import Trainer

import ftplug
from ftplug import MethodError
from ftplug.training.record import _rounded


@pytest.mark.parametrize(
    ("rate", "shown"), [(1e-3, "1e-3"), (5e-5, "5e-5"), (2.5e-4, "2.5e-4"), (0.1, "0.1")]
)
@pytest.mark.filterwarnings("ignore")
def test_attach_returns_the_trainer_which_shows_what_trains(tmp_path, rate, shown):
    bound = trainer(tiny.bert(), tmp_path, learning_rate=rate, max_steps=1, save_strategy="no")
    assert ftplug.attach(bound, "lora", "bitfit") is bound
    count = sum(p.numel() for p in bound.model.parameters() if p.requires_grad)
    expected = f"<Trainer: lora + bitfit: {count:,} of 20,354 parameters, lr {shown}>"
    assert repr(bound) == expected
    bound.train()
    assert repr(bound) == expected


def test_sizes_are_as_people_say_them():
    assert [_rounded(n) for n in (22_713_986, 7_241_732_096, 999_999)] == [
        "22.7 M", "7.2 B", "999,999",
    ]  # fmt: skip


def test_a_class_that_shows_itself_still_does(tmp_path):
    class Shown(Trainer):
        def __repr__(self):
            return f"{self.args.output_dir} of mine"

    bound = ftplug.attach(trainer(tiny.bert(), tmp_path, cls=Shown), "full", lr=1e-4)
    assert repr(bound) == f"{tmp_path} of mine (full: 20,354 of 20,354 parameters, lr 1e-4)"
    lora = ftplug.attach(trainer(tiny.bert(), tmp_path), "lora")
    ftplug.merge(lora.model)
    assert "Trainer object at" in repr(lora)


CELL = "import ftplug\nmodel = base\nftplug.apply(model, 'lora', r=4, rank=8)\n"


def raised(cell, **names):
    """Run a cell as a notebook does and return what it raised."""
    name = "/tmp/ipykernel_1/1234.py"
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    with pytest.raises(ftplug.FtplugError) as caught:
        exec(compile(cell, name, "exec"), names)
    return caught.value


def test_an_error_of_ours_is_the_users_line_and_what_it_says():
    error = raised(CELL, base=tiny.bert())
    assert error._render_traceback_()[-3:] == [
        "/tmp/ipykernel_1/1234.py, line 3",
        "    ftplug.apply(model, 'lora', r=4, rank=8)",
        f"MethodError: {error}",
    ]
    assert MethodError("never raised")._render_traceback_() == ["MethodError: never raised"]


@pytest.mark.parametrize(
    "cell",
    [
        "ftplug.apply(model, 'lorra')",
        "ftplug.apply(model, 'lora', target_modules='q_prj')",
        "ftplug.load(model, 'nowhere')",
        "ftplug.attach(model, 'lora')",
    ],
)
def test_ipython_prints_it_so(cell, capsys):
    shells = pytest.importorskip("IPython.core.interactiveshell", reason="pip install ipython")
    shell = shells.InteractiveShell()
    shell.user_ns |= {"ftplug": ftplug, "model": copy.deepcopy(tiny.bert())}
    result = shell.run_cell(cell)
    assert isinstance(result.error_in_exec, ftplug.FtplugError)
    printed = capsys.readouterr().out.strip().splitlines()
    assert len(printed) == 3
    assert printed[1].strip() == cell
    assert printed[2] == f"{type(result.error_in_exec).__name__}: {result.error_in_exec}"


def test_the_trainer_is_what_a_cell_shows(tmp_path, capsys):
    shells = pytest.importorskip("IPython.core.interactiveshell", reason="pip install ipython")
    shell = shells.InteractiveShell()
    shell.user_ns |= {"ftplug": ftplug, "trainer": trainer(tiny.bert(), tmp_path)}
    shell.run_cell("ftplug.attach(trainer, 'lora')")
    assert "<Trainer: lora: 2,114 of 20,354 parameters, lr 1e-3>" in capsys.readouterr().out
