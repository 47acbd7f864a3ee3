"""``ftplug new`` writes a package; another distribution's method is as good as a built-in one."""

import importlib.util
import json
import re
import site
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import hub as hubs
import pytest
import script
import tiny
from ftplug_registry.server.embedded import EmbeddedHub

import ftplug
from ftplug import FtplugError, cli
from ftplug.attaching.attachment import require_attachment
from ftplug.scaffold.package import write_package
from ftplug.testing import Case, MethodContract, checks, run_view


def load_class(folder, module, name):
    spec = importlib.util.spec_from_file_location(module, folder / f"{module}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


@pytest.mark.parametrize(
    ("name", "cls"),
    [("my-method", "MyMethod"), ("x2", "X2"), ("method", "MethodPlugin"), ("none", "NonePlugin")],
)
def test_the_package_is_whole(tmp_path, name, cls):
    folder = write_package(name, tmp_path / "package")
    module = f"ftplug_{name.replace('-', '_')}"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "pyproject.toml", f"{module}.py", f"test_{module}.py",
    }  # fmt: skip
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == f"ftplug-{name}"
    assert project["project"]["dependencies"] == [f"ftplug>={ftplug.__version__}"]
    assert project["project"]["entry-points"]["ftplug.methods"] == {name: f"{module}:{cls}"}
    method = load_class(folder, module, cls)
    assert method.name == name
    assert all(setting.help for setting in method.describe())
    ftplug.apply(tiny.gpt2(), method(layers=1))
    lines = [*(folder / f"test_{module}.py").read_text().splitlines()]
    assert len([line for line in lines if line]) == 3
    assert f"class Test{cls}(MethodContract):" in lines


@pytest.mark.slow
def test_the_written_method_keeps_the_contract(tmp_path):
    method = load_class(write_package("mine", tmp_path), "ftplug_mine", "Mine")
    for family in ("bert", "llama"):
        case = Case(method, family)
        for check in set(checks.__all__) - {"refused_in_one_line"}:
            getattr(checks, check)(case)


def test_the_written_method_logs_through_the_run(tmp_path):
    method = load_class(write_package("mine", tmp_path), "ftplug_mine", "Mine")()
    model = ftplug.apply(tiny.bert(), method)
    run = run_view(model, method)
    for name, parameter in model.named_parameters():
        parameter.data += 0.5 * name.endswith("mine_scale")
    for step in range(1, 11):
        method.on_step(model=model, step=step, run=run)
    assert require_attachment(model).facts.surroundings.scalars == [{"mine_scale": 0.5}]


@pytest.mark.parametrize("name", ["", "My-method", "my_method", "-my", "my--method", "1st", "a/b"])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(FtplugError, match=r"lower-case letters and digits, joined by dashes"):
        write_package(name, tmp_path / "x")


def test_a_name_that_is_taken_is_refused(tmp_path):
    with pytest.raises(FtplugError, match=r"'lora' is installed already, from ftplug 0\."):
        write_package("lora", tmp_path / "x")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("1")
    for target in (tmp_path / "full", tmp_path / "full/thesis.tex"):
        with pytest.raises(FtplugError, match="exists already: choose another folder"):
            write_package("my-method", target)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    with pytest.raises(FtplugError, match="cannot write"):
        write_package("my-method", tmp_path / "full/thesis.tex/below")


def test_the_command_says_what_to_do_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ftplug", "new", "my-method"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    printed = capsys.readouterr().out
    assert "pip install -e 'ftplug-my-method[test]'" in printed
    assert "ftplug run --method my-method --lr suggested -- train.py" in printed
    assert (tmp_path / "ftplug-my-method/ftplug_my_method.py").is_file()


# Installed into an environment of its own

TRAIN = """
    import sys
    import ftplug, runs, tiny, torch
    from ftplug_registry import push

    out = sys.argv[1]
    callback = ftplug.FTPlugCallback("my-method", layers=1, lr="suggested")
    trainer = runs.trainer(tiny.bert(), out, callbacks=[callback])
    trainer.train()
    trainer.save_model(out + "/artifact")
    push(out + "/artifact", "local/scaled", tag="v1")
    pulled = ftplug.load(tiny.bert(), "local/scaled", revision="v1")
    assert torch.equal(runs.logits(pulled), runs.logits(trainer.model))
    print("pulled what was trained")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedHub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_package("my-method", tmp_path_factory.mktemp("package") / "ftplug-my-method")


@pytest.fixture(scope="module")
def python(package, tmp_path_factory):
    """The interpreter of a fresh environment that has the package, and sees this one's packages."""
    venv = tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    found = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    # addsitedir also reads the .pth files there: an editable ftplug is one.
    seen = "\n".join(f"import site; site.addsitedir({path!r})" for path in site.getsitepackages())
    (found / "this.pth").write_text(f"{seen}\n")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", *offline, package], check=True)
    return python


def run(python, *arguments, **options):
    done = subprocess.run([python, *arguments], capture_output=True, text=True, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def environment(server, tmp_path):
    found = hubs.environment(server, home=tmp_path / "home")
    return found | {"PYTHONPATH": str(Path(tiny.__file__).parent), "OMP_NUM_THREADS": "1"}


@pytest.mark.venv
def test_the_installed_package_passes_its_own_test(python, package, environment):
    code, printed, error = run(
        python, "-m", "pytest", "-v", "-m", "not ddp", "-p", "no:cacheprovider", package,
        cwd=package, env=environment,
    )  # fmt: skip
    assert code == 0, printed + error
    passed = set(re.findall(r"::(test_\w+).* PASSED", printed))
    of_the_contract = {name for name in vars(MethodContract) if name.startswith("test_")}
    not_asked = {"test_two_processes_agree", "test_what_does_not_fit_is_refused"}  # it fits all
    assert of_the_contract - passed == not_asked
    assert re.search(r"= \d+ passed, 1 deselected", printed)  # none skipped


@pytest.mark.venv
def test_it_trains_is_published_and_is_missed_where_it_is_not(python, environment, tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN))
    code, printed, error = run(python, "train.py", tmp_path / "a", cwd=tmp_path, env=environment)
    assert (code, printed.splitlines()[-1]) == (0, "pulled what was trained"), error

    launch, target = ("-m", "ftplug", "run"), ("--", script.__file__, "--out")
    chosen = ("--method", "my-method", "--set", "layers=1")
    code, _, error = run(python, *launch, *chosen, *target, tmp_path / "b", env=environment)
    assert code == 0, error
    made_by = json.loads((tmp_path / "b/ftplug.json").read_text())["methods"][0]
    assert (made_by["distribution"], made_by["settings"]) == ("ftplug-my-method", {"layers": 1})

    absent = [sys.executable, *launch, "--from", "local/scaled", *target, tmp_path / "c"]
    code, _, error = run(*absent, env=environment)
    assert code == 1
    assert error.count("\n") == 1, error
    assert "needs method 'my-method', which is not installed here" in error
    assert "names the package 'ftplug-my-method 0.1.0', which is its publisher's claim" in error
