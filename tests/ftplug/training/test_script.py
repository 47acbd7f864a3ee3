"""``ftplug run``: somebody's script, unmodified, trains with another method."""

import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import ranks
import script
import tiny
import torch
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.lora import Lora
from ftplug_plugins.prompt_tuning import PromptTuning
from runs import METHODS, logits, same, trainer, weights
from transformers.trainer_callback import CallbackHandler

import ftplug
from ftplug.artifacts.author import named_by_author
from ftplug.artifacts.manifest import read_manifest
from ftplug.training.script import Launch, methods_from

SCRIPT = Path(script.__file__)


def launch(methods, *arguments, module=False, exits=0, **options):
    """Run the script in this process and return the launch."""
    launched = Launch(methods, **options)
    command = ["script" if module else str(SCRIPT), *map(str, arguments)]
    with pytest.raises(SystemExit) as stopped:
        launched.run(command, module=module)
    assert (stopped.value.code or 0) == exits
    return launched


def test_the_three_ways_in_give_identical_weights(tmp_path):
    launched = launch([Lora(r=4)], "--out", tmp_path / "a")
    artifact = ftplug.load(tiny.bert(), tmp_path / "a")
    gc.collect()
    assert launched.callbacks[0].run.trainer is None  # nothing keeps the script's model alive
    found = []
    for way in ("callback", "attach"):
        model = tiny.bert()
        callbacks = [ftplug.FTPlugCallback("lora", r=4)] if way == "callback" else None
        bound = trainer(model, tmp_path / way, save_strategy="no", callbacks=callbacks)
        bound.train_dataset = script.Rows(model)
        if way == "attach":
            ftplug.attach(bound, "lora", r=4)
        bound.train()
        found.append(weights(bound.model))
    assert same(weights(artifact), found[0])
    assert same(weights(artifact), found[1])


SAVES = """
import sys
sys.path[:0] = {paths!r}
import tiny, script
from runs import trainer
model = tiny.bert()
model.config._name_or_path = {base!r}
bound = trainer(model, {out!r}, max_steps=2, save_strategy="no")
bound.train_dataset = script.Rows(model)
bound.train()
bound.save_model({out!r} + "/trainer")
bound.model.save_pretrained({out!r} + "/model")
bound.create_model_card(model_name="Mine", dataset="Theirs", finetuned_from="org/theirs")
"""


def test_names_of_data_and_base_reach_every_way_of_saving(tmp_path):
    told = named_by_author(dataset_name="Our reviews", base_id="org/base")
    paths = [str(Path(module.__file__).parent) for module in (tiny, script)]
    saving = tmp_path / "saving.py"
    saving.write_text(SAVES.format(paths=paths, out=str(tmp_path), base=""))
    Launch([Lora(r=4)], author=told).run([str(saving)])
    for folder in (tmp_path / "trainer", tmp_path / "model", tmp_path):
        author = read_manifest(folder).author
        assert {name: author[name] for name in told} == told
    assert read_manifest(tmp_path).author["model_name"] == "Mine"
    saving.write_text(SAVES.format(paths=paths, out=str(tmp_path), base="org/known"))
    with pytest.raises(ftplug.ArtifactError, match="the base was loaded as org/known"):
        Launch([Lora(r=4)], author=told).run([str(saving)])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_somebodys_script(tmp_path, method):
    from ftplug.discovery import entry

    configured = entry(method).load().configure(METHODS[method])
    report = tmp_path / "report.json"
    launch([configured], "--out", tmp_path, report=report)
    run = json.loads(report.read_text())["runs"][0]
    assert run["methods"][0]["name"] == method
    may_train = run["tensors"]["may_train"]
    model = ftplug.apply(tiny.bert(), configured)
    assert may_train == sum(p.requires_grad for p in model.parameters())
    assert run["tensors"]["moved"] >= may_train - tiny.LAYERS  # key biases have no gradient
    assert json.loads((tmp_path / "ftplug.json").read_text())["methods"][0]["name"] == method


def test_the_script_sees_what_python_would_show_it(tmp_path):
    path = list(sys.path)
    launch([Freeze()], "--out", tmp_path, "--exit", 3, exits=3)
    seen = torch.load(tmp_path / "seen.pt")
    assert seen["argv"] == ["--out", str(tmp_path), "--exit", "3"]
    assert seen["file"] == str(SCRIPT)
    assert seen["name"] == "__main__"
    assert sys.path == path


def test_the_script_is_noted_without_its_paths(tmp_path):
    launch([Freeze()], "--out", tmp_path)
    manifest = json.loads((tmp_path / "ftplug.json").read_text())
    assert manifest["training"]["script"] == {
        "name": SCRIPT.name,
        "sha256": hashlib.sha256(SCRIPT.read_bytes()).hexdigest(),
        "arguments": ["--out", "[path]"],
    }


def test_a_module_runs_with_m(tmp_path):
    launch([Freeze()], "--out", tmp_path, module=True)
    assert json.loads((tmp_path / "ftplug.json").read_text())["methods"][0]["name"] == "freeze"


def test_the_learning_rate_and_the_head_can_be_set(tmp_path):
    launch([Freeze(layers=0)], "--out", tmp_path, lr="suggested", train_head=False)
    manifest = json.loads((tmp_path / "ftplug.json").read_text())
    assert manifest["training"]["hyperparameters"]["learning_rate"] == 1e-3
    assert manifest["train_head"] is False
    assert manifest["parameters"]["trained"] == 32 * 32 + 32  # the pooler alone


def test_a_dry_run_prints_the_plan_and_stops(tmp_path, capsys):
    launch([Lora(r=4)], "--out", tmp_path, dry_run=True)
    printed = capsys.readouterr().out
    assert "lora on BertForSequenceClassification" in printed
    assert "trains 1,090 of" in printed
    assert "bert.encoder.layer.0.attention.self.query.lora_A.default.weight (4, 32)" in printed
    assert "memory without activations: weights 0." in printed
    assert not (tmp_path / "seen.pt").exists()


def test_from_continues_an_artifact(tmp_path, monkeypatch):
    launch([Lora(r=4)], "--out", tmp_path / "a")
    methods = methods_from(tmp_path / "a")
    assert [m.settings() for m in methods] == [Lora(r=4).settings()]
    seen = []
    monkeypatch.setattr(
        "ftplug.training.script.dry_run_text", lambda c, args: seen.append(logits(c.trainer.model))
    )
    launch(methods, "--out", tmp_path / "b", start_from=tmp_path / "a", dry_run=True)
    assert torch.equal(seen[0], logits(ftplug.load(tiny.bert(), tmp_path / "a")))


def test_a_script_without_a_trainer_is_said(tmp_path):
    for end in ("", "sys.exit(None)"):  # sys.exit(main()) is how scripts end
        (tmp_path / "none.py").write_text(f"import sys\n{end}")
        with pytest.raises(ftplug.MethodError, match=r"none\.py built no transformers Trainer"):
            Launch([Lora()]).run([str(tmp_path / "none.py")])
    (tmp_path / "none.py").write_text("raise SystemExit(4)")
    with pytest.raises(SystemExit, match="4"):
        Launch([Lora()]).run([str(tmp_path / "none.py")])


def test_the_report_goes_where_it_was_asked_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mover = tmp_path / "mover.py"
    mover.write_text(f"import os, runpy\nos.mkdir('sub')\nos.chdir('sub')\n"
                     f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')")  # fmt: skip
    with pytest.raises(SystemExit):
        Launch([Lora()], report=Path("report.json")).run([str(mover), "--out", str(tmp_path)])
    assert json.loads((tmp_path / "report.json").read_text())["runs"][0]["tensors"]["moved"] == 10
    with pytest.raises(ftplug.ArtifactError, match="cannot write"):
        Launch([Lora()], report=mover / "x").run([str(SCRIPT), "--out", str(tmp_path)])


def test_a_trainer_that_only_evaluates_is_left_alone(tmp_path):
    code = """
        import tiny, runs
        from transformers import Trainer, TrainingArguments
        model = tiny.bert()
        args = TrainingArguments({out!r}, report_to=[], disable_tqdm=True)
        judge = Trainer(model, args, eval_dataset=runs.rows(model))
        assert not any("prompt" in name for name, _ in model.named_parameters())
        judge.evaluate()
    """
    (tmp_path / "judge.py").write_text(textwrap.dedent(code.format(out=str(tmp_path))))
    launched = Launch([PromptTuning()])
    launched.run([str(tmp_path / "judge.py")])
    assert [callback.summary() for callback in launched.callbacks] == [{}]


def test_a_missing_script_or_module_is_one_line(tmp_path):
    with pytest.raises(ftplug.FtplugError, match="no script at"):
        Launch([Lora()]).run([str(tmp_path / "nothing.py")])
    with pytest.raises(ftplug.FtplugError, match="no module named nothing_here"):
        Launch([Lora()]).run(["nothing_here"], module=True)


def test_the_launcher_leaves_nothing_behind(tmp_path):
    before = CallbackHandler.__init__, subprocess.Popen.__init__
    launch([Lora()], "--out", tmp_path, dry_run=True)
    assert before == (CallbackHandler.__init__, subprocess.Popen.__init__)


def test_a_package_may_replace_the_default_callbacks(tmp_path, monkeypatch):
    """ms-swift does so on import, after the launcher began."""
    (tmp_path / "replaces.py").write_text(
        "import runpy, transformers.trainer\n"
        "class Flow(transformers.trainer.DefaultFlowCallback): ...\n"
        "transformers.trainer.DEFAULT_CALLBACKS = [Flow]\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    monkeypatch.setattr("transformers.trainer.DEFAULT_CALLBACKS", [])  # put back afterwards
    with pytest.raises(SystemExit) as ended:
        Launch([Lora()]).run([str(tmp_path / "replaces.py"), "--out", str(tmp_path / "out")])
    assert not ended.value.code
    manifest = json.loads((tmp_path / "out/ftplug.json").read_text())
    assert manifest["methods"][0]["name"] == "lora"


@pytest.mark.slow
def test_as_a_process(tmp_path):
    command = [sys.executable, "-m", "ftplug", "run", "--method", "lora", "--set", "r=0"]
    done = subprocess.run([*command, "--", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("ftplug: lora: setting 'r' cannot be '0'")
    assert done.stderr.count("\n") == 1

    command[-1] = "r=2"
    script_arguments = ["--out", tmp_path, "--exit", "5"]
    done = subprocess.run([*command, "--", SCRIPT, *script_arguments], capture_output=True)
    assert done.returncode == 5, done.stderr.decode()
    assert json.loads((tmp_path / "ftplug.json").read_text())["methods"][0]["settings"]["r"] == 2


def test_file_is_absolute_as_python_makes_it(tmp_path, monkeypatch):
    (tmp_path / "moves.py").write_text(
        "import os, runpy\nos.chdir('/')\nassert os.path.isfile(__file__), __file__\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        Launch([Lora()]).run(["moves.py", "--out", str(tmp_path / "out")])
    assert not ended.value.code


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (
            "accelerate.commands.launch",
            ["--cpu", "--num_processes", "1", "--mixed_precision", "no"],
        ),
        ("torch.distributed.run", ["--nproc_per_node", "1"]),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_launcher_of_other_processes_is_refused_before_they_train(
    tmp_path, module, arguments, monkeypatch
):
    monkeypatch.setattr("os.environ", os.environ.copy())
    command = [module, *arguments, str(SCRIPT), "--out", str(tmp_path / "out")]
    start, report = subprocess.Popen.__init__, tmp_path / "report.json"
    with pytest.raises(ftplug.MethodError, match=rf"another process \({module}\).*-m ftplug run"):
        Launch([Lora()], report=report).run(command, module=True)
    assert not (tmp_path / "out").exists()
    assert json.loads(report.read_text())["runs"] == []
    assert subprocess.Popen.__init__ is start


@pytest.mark.parametrize(
    "started",
    ["'N=1 torchrun x.py', shell=True", "['/opt/bin/accelerate', 'launch', 'x.py']",
     "[sys.executable, '-m', 'torch.distributed.run', 'x.py']"],
)  # fmt: skip
def test_a_script_that_starts_a_launcher_is_refused(tmp_path, started):
    (tmp_path / "starts.py").write_text(f"import subprocess, sys\nsubprocess.run({started})")
    with pytest.raises(ftplug.MethodError, match="starts its training in another process"):
        Launch([Lora()]).run([str(tmp_path / "starts.py")])


@pytest.mark.parametrize(
    ("started", "told"),
    [(["-u", "{}/other.py", "--lr", "1"], r"-- \S+/other\.py …"), (["-m", "this"], "-m -- this …")],
)
def test_another_python_that_did_not_train_is_named(tmp_path, caplog, started, told):
    (tmp_path / "other.py").write_text("")
    words = [word.format(tmp_path) for word in started]
    (tmp_path / "starts.py").write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, *{words}], capture_output=True)"
    )
    with pytest.raises(ftplug.MethodError, match=rf"no method was applied; it started .*{told}"):
        Launch([Lora()]).run([str(tmp_path / "starts.py")])
    assert "no method reaches" not in caplog.text  # it was reached, and built no Trainer


def test_a_script_may_start_other_processes(tmp_path, caplog):
    (tmp_path / "asks.py").write_text(
        "import runpy, subprocess, sys\n"
        "assert subprocess.check_output([sys.executable, '-c', 'print(1)']) == b'1\\n'\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "finally: subprocess.check_output([sys.executable, '-m', 'this'])"
    )
    with pytest.raises(SystemExit) as ended:
        Launch([Lora()]).run([str(tmp_path / "asks.py"), "--out", str(tmp_path)])
    assert not ended.value.code
    assert "another Python" not in caplog.text


ENDS = {
    "a KeyboardInterrupt": ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
    "a SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "an EOFError": ("raise EOFError('no more')", 1),
    "a mistake in a function": ("def main():\n    1 / 0\n\n\nmain()", 1),
    "a text": ("sys.exit('bad data')", 1),
    "a code": ("sys.exit(3)", 3),
}


# One process that has imported everything, and a fork of it for each script.
FORKS = """
import gc, json, os, sys
import ftplug.cli, ftplug.training.script, ftplug_plugins.lora, ftplug_registry.commands
gc.freeze()  # a fork that ends walks through none of it
ends = {}
for script in sys.argv[1:]:
    child = os.fork()
    if not child:
        os.dup2(os.open(script + ".stderr", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv = ["ftplug", "run", "--method", "lora", "--", script]
        ftplug.cli.main()
        sys.exit()
    ends[script] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(ends))
"""


@pytest.mark.slow
def test_a_script_ends_as_it_does_under_python(tmp_path, subtests):
    scripts = {name: tmp_path / f"{name}.py" for name in ENDS}
    for name, (line, _) in ENDS.items():
        scripts[name].write_text(f"import os, signal, sys\n{line}\n")
    command = [sys.executable, "-c", FORKS, *scripts.values()]
    ends = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for name, (_, code) in ENDS.items():
        plain = subprocess.run([sys.executable, scripts[name]], capture_output=True, text=True)
        with subtests.test(name):
            assert ends[str(scripts[name])] == plain.returncode == code
            assert Path(f"{scripts[name]}.stderr").read_text() == plain.stderr
    traceback = Path(f"{scripts['a mistake in a function']}.stderr").read_text()
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert traceback.count("  File ") == 2
    assert traceback.endswith("ZeroDivisionError: division by zero\n")


def on_two(launcher, *arguments):
    command = [sys.executable, "-m", *launcher, "-m", "ftplug", "run", *map(str, arguments)]
    # It must end, whatever one of the two runs into.
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.ddp
def test_accelerate_launch_trains_what_two_processes_train(tmp_path):
    """``--cpu`` would start a single process, or need MPI; the README's torchrun is run there."""
    launcher = ["accelerate.commands.launch", "--num_processes", "2", "--multi_gpu"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    method = ["--method", "lora", "--set", "r=4", "--report", tmp_path / "report.json"]
    done = on_two(launcher, *method, "--", SCRIPT, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["runs"][0]["tensors"]["moved"] == 10
    training = json.loads((tmp_path / "out/ftplug.json").read_text())["training"]
    assert training["hyperparameters"]["processes"] == 2
    ranks.both(ranks.launched, methods={"lora": {"r": 4}}, script=SCRIPT, out=tmp_path / "again")
    artifacts = [weights(ftplug.load(tiny.bert(), tmp_path / name)) for name in ("out", "again")]
    assert same(*artifacts)


@pytest.mark.ddp
def test_two_processes_that_refuse_end_at_once(tmp_path):
    (tmp_path / "out").mkdir()
    misfit = ["--method", "lora", "--set", "target_modules=nothing"]
    torchrun = ["torch.distributed.run", "--nproc_per_node", "2"]
    done = on_two(torchrun, *misfit, "--", SCRIPT, "--out", tmp_path / "out")
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("ftplug: ")]
    assert len(said) in (1, 2)  # the launcher may end the second before it has spoken
    assert "nothing" in said[0]
    assert list((tmp_path / "out").iterdir()) == []
