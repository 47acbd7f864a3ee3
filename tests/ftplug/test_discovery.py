"""Discovery: entry points, and a clear line for every way they can be wrong."""

import importlib
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest

import ftplug
from ftplug import PluginError, discovery
from ftplug.host import Host, resolve

BUILT_IN = {"full", "freeze", "lora", "prefix-tuning", "prompt-tuning", "bottleneck"}


def advertise(monkeypatch, tmp_path, points, module=""):
    """Install fake distributions: ``{(dist, version): {name: value}}`` and one module."""
    (tmp_path / "stranger.py").write_text(textwrap.dedent(module))
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, points)
    sys.modules.pop("stranger", None)


def install(tmp_path, points, group="ftplug.methods"):
    for (dist, version), advertised in points.items():
        info = tmp_path / f"{dist}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {dist}\nVersion: {version}\n")
        lines = "\n".join(f"{name} = {value}" for name, value in advertised.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
    importlib.invalidate_caches()


STRANGER = """
    from dataclasses import dataclass
    from ftplug import Method, hookimpl

    @dataclass(frozen=True, eq=False)
    class Good(Method):
        '''A stranger's method.'''
        name = "good"

        @hookimpl
        def select_trainable(self, model):
            return [n for n, _ in model.named_parameters() if n.endswith("bias")]

    @dataclass(frozen=True, eq=False)
    class Old(Good):
        name = "old"
        hook_api = 0

    class Bare(Method):
        name = "bare"

    @dataclass(frozen=True, eq=False)
    class Nameless(Method):
        pass

    @dataclass(frozen=True, eq=False)
    class Typo(Method):
        name = "typo"

        @hookimpl
        def select_trainabel(self, model):
            return []
"""


def test_the_built_in_methods_are_found_by_entry_point():
    assert set(ftplug.methods()) >= BUILT_IN
    for name, cls in ftplug.methods().items():
        assert cls.name == name
        assert cls.summary().endswith(".")
        assert all(setting.help for setting in cls.describe()), name


def test_a_stranger_is_found(monkeypatch, tmp_path):
    advertise(monkeypatch, tmp_path, {("them", "1.0"): {"good": "stranger:Good"}}, STRANGER)
    assert ftplug.methods()["good"].summary() == "A stranger's method."
    assert discovery.entry("good").distribution == "them"


def test_an_instance_without_a_name_is_told_the_line_to_add():
    @dataclass(frozen=True, eq=False)
    class Nameless(ftplug.Method):
        pass

    line = 'Nameless has no name: add the line name: ClassVar[str] = "my-method" to the class'
    with pytest.raises(PluginError, match=re.escape(line)):
        Host([Nameless()])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("broken", "no_such_module:X", "No module named 'no_such_module'"),
        ("missing", "stranger:Nothing", "Nothing"),
        ("wrong", "json:loads", "not a subclass of ftplug.Method"),
        ("other", "stranger:Good", "calls itself 'good'"),
        (
            "nameless",
            "stranger:Nameless",
            'has no name: add the line name: ClassVar[str] = "nameless" to the class',
        ),
        ("old", "stranger:Old", "written for hook API 0; this ftplug has 1"),
        ("bare", "stranger:Bare", "lacks @dataclass"),
    ],
)
def test_a_broken_plugin_is_named_and_skipped(monkeypatch, tmp_path, name, value, message):
    advertise(monkeypatch, tmp_path, {("them", "1.0"): {name: value}}, STRANGER)
    with pytest.raises(PluginError, match=r"them 1\.0") as caught:
        discovery.entry(name).load()
    assert message in str(caught.value)
    with pytest.warns(UserWarning, match=r"them 1\.0"):
        usable = ftplug.methods()
    assert name not in usable
    assert set(usable) >= BUILT_IN


def test_two_plugins_with_one_name_are_an_error(monkeypatch, tmp_path):
    points = {("them", "1.0"): {"good": "stranger:Good"}, ("us", "2.0"): {"good": "stranger:Good"}}
    advertise(monkeypatch, tmp_path, points, STRANGER)
    with pytest.raises(PluginError, match=r"them 1\.0 and us 2\.0|us 2\.0 and them 1\.0"):
        discovery.entry("good")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(PluginError, match="did you mean 'lora'"):
        discovery.entry("lorra")


def test_a_misspelt_hook_is_an_error(monkeypatch, tmp_path):
    advertise(monkeypatch, tmp_path, {("them", "1.0"): {"typo": "stranger:Typo"}}, STRANGER)
    with pytest.raises(PluginError, match="select_trainabel"):
        Host([discovery.entry("typo").load()()])


def test_an_instance_for_another_hook_api_is_refused_before_anything_changes(monkeypatch, tmp_path):
    import tiny

    advertise(monkeypatch, tmp_path, {}, STRANGER)
    model = tiny.bert()
    with pytest.raises(PluginError, match=r"'old' is written for hook API 0; this ftplug has 1"):
        ftplug.apply(model, importlib.import_module("stranger").Old())
    assert "_ftplug" not in model.__dict__


def test_importing_and_listing_loads_no_heavy_library():
    code = (
        "import sys, ftplug, ftplug.cli, ftplug.demo; ftplug.methods();"
        "print([m for m in ('torch', 'transformers', 'peft', 'evaluate') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "[]", printed.stderr


def test_public_names_resolve():
    for name in ftplug.__all__:
        assert getattr(ftplug, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        ftplug.nonsense  # noqa: B018


def test_what_is_installed_meanwhile_is_found(monkeypatch, tmp_path):
    advertise(monkeypatch, tmp_path, {("first", "1"): {"one": "stranger:One"}})
    assert "one" in discovery.entries()
    assert "two" not in discovery.entries()
    install(tmp_path, {("second", "1"): {"two": "stranger:Two"}})
    assert {"one", "two"} <= discovery.entries().keys()


FAMILY = f"""
    {STRANGER.strip()}

    def title():
        return "themlib 3.1"

    def names():
        return ["lora", "good", "old"]  # lora has an entry point: that counts

    def build(name):
        return {{"good": Good, "old": Old}}[name]
"""


def offer(monkeypatch, tmp_path, module, dists=(("them", "1.0"),)):
    advertise(monkeypatch, tmp_path, {}, module)
    points = {dist: {f"kin-{dist[0]}": "stranger"} for dist in dists}
    install(tmp_path, points, "ftplug.method_families")


def test_a_family_offers_what_no_entry_point_names(monkeypatch, tmp_path):
    offer(monkeypatch, tmp_path, FAMILY)
    found = discovery.entry("good")
    assert (found.distribution, found.version, found.value) == ("them", "1.0", "stranger")
    assert found.load().summary() == "A stranger's method."
    assert discovery.entry("lora").distribution == "ftplug"
    assert discovery.further(discovery.entries())["themlib 3.1"] == ["good", "old"]
    assert "good" not in ftplug.methods()
    assert resolve(["good"], {})[0].name == "good"
    [spec] = Host(resolve(["good"], {})).spec()
    assert (spec["distribution"], spec["version"]) == ("them", "1.0")


def test_what_a_family_builds_is_checked_as_any_method(monkeypatch, tmp_path):
    offer(monkeypatch, tmp_path, FAMILY)
    with pytest.raises(
        PluginError, match=r"'old' \(stranger, from them 1\.0\) is written for hook"
    ):
        discovery.entry("old").load()


def test_a_broken_family_is_named_and_skipped(monkeypatch, tmp_path):
    offer(monkeypatch, tmp_path, "raise ImportError('no themlib')")
    with pytest.warns(UserWarning, match=r"'kin-them' \(stranger, from them 1\.0\).*no themlib"):
        assert "themlib 3.1" not in discovery.further(discovery.entries())
    with (
        pytest.warns(UserWarning, match="no themlib"),
        pytest.raises(PluginError, match="named 'x'"),
    ):
        discovery.entry("x")


def test_two_families_with_one_name_are_an_error(monkeypatch, tmp_path):
    offer(monkeypatch, tmp_path, FAMILY, [("them", "1.0"), ("us", "2.0")])
    with pytest.raises(PluginError, match=r"is provided by (them 1\.0 and us 2\.0|us .*them)"):
        discovery.entry("good")
