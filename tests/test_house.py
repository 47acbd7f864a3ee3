"""The plan of the house: which way imports point, and where private names of others may stand."""

import ast
import re
import statistics
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from transformers import Trainer

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "ftplug": ROOT / "ftplug",
    "ftplug_plugins": ROOT / "plugins" / "ftplug_plugins",
    "ftplug_registry": ROOT / "registry" / "ftplug_registry",
}
# From the top down: a module imports from its own line and from those below. What is not named
# belongs to the longest prefix that is. ftplug/__init__.py is lazy and stands outside.
LAYERS = {
    "ftplug": """
        advising
        cli listing __main__
        comparing
        command_group
        options
        demo scaffold testing
        detaching
        training
        applying adopting
        artifacts
        effect
        attaching
        host
        discovery
        base method
        files structure hookspecs context inplace
        frames entry_points
        errors lazy quiet nearest
    """,
    "ftplug_plugins": """
        layouts
        peft_family
        .
        trunk_cache lora_parts
        virtual
        peft_bridge shared
    """,
    "ftplug_registry": """
        commands
        signing_commands
        verifying adopting governing
        local_hub
        server site
        printing options
        searching showing
        pushing
        pulling
        signing
        contents
        bom
        card
        inspection hub
        answers
        client credentials
    """,
    "ftplug_registry.server": """
        command
        embedded
        app connections
        handlers
        storage
        accounts errors
    """,
}
# Who may import whom: methods and registry know the host, which knows neither.
ALLOWED = {
    "ftplug": {"ftplug"},
    "ftplug_plugins": {"ftplug", "ftplug_plugins"},
    "ftplug_registry": {"ftplug", "ftplug_registry"},
}


@cache
def modules():
    """Return ``{dotted name: syntax tree}`` of the three packages."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [p for p in path.relative_to(folder).with_suffix("").parts if p != "__init__"]
            found[".".join([package, *parts])] = (path, ast.parse(path.read_text("utf-8")))
    return found


def imported(tree, *, types):
    """Yield the dotted names a module imports, in functions too; with ``types`` those for types."""

    def walk(node, for_types):
        for child in ast.iter_child_nodes(node):
            inside = for_types or (
                isinstance(node, ast.If)
                and "TYPE_CHECKING" in ast.unparse(node.test)
                and child in node.body
            )
            if inside == types and isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif inside == types and isinstance(child, ast.ImportFrom):
                assert child.level == 0, "imports are absolute"
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            yield from walk(child, inside)

    yield from walk(tree, False)


def home(name):
    """Return the module of ours that an imported name is or lies in."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


@cache
def arrows(types):
    """Return ``{module: modules it imports}``, the packages' lazy ``__init__`` left out."""
    return {
        name: {
            target
            for given in imported(tree, types=types)
            if (target := home(given)) and target != name and target not in PACKAGES
        }
        for name, (_, tree) in modules().items()
        if name not in PACKAGES
    }


def reached(start, edges):
    seen, todo = set(), list(edges.get(start, ()))
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += edges.get(name, ())
    return seen


def circles(edges):
    return sorted(name for name in edges if name in reached(name, edges))


def both():
    return {name: arrows(False)[name] | arrows(True)[name] for name in arrows(False)}


def test_the_reader_of_imports_sees_all_kinds():
    code = (
        "import a.b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from c import d\n"
        "else:\n    import e\ndef f():\n    from g import h\n"
    )
    tree = ast.parse(code)
    assert set(imported(tree, types=False)) == {"a.b", "typing.TYPE_CHECKING", "e", "g.h"}
    assert set(imported(tree, types=True)) == {"c.d"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


def test_no_module_imports_itself_through_others():
    assert circles(arrows(False)) == []


def test_nor_for_its_types():
    assert circles(both()) == []


def rank(name, part):
    """Return the line of a module in a part's layers, from the top; None if it has none."""
    lines = [line.split() for line in LAYERS[part].strip().splitlines()]
    first = name.removeprefix(f"{part}.").split(".")[0]
    alone = name.removeprefix(f"{part}.") == first and "." not in first
    for number, line in enumerate(lines):
        if first in line:
            return number
    return next((n for n, line in enumerate(lines) if line == ["."]), None) if alone else None


@pytest.mark.parametrize("part", LAYERS)
def test_every_module_has_a_layer(part):
    own = [name for name in arrows(False) if name.startswith(f"{part}.")]
    assert own
    assert [name for name in own if rank(name, part) is None] == []


@pytest.mark.parametrize("part", LAYERS)
def test_arrows_point_down(part):
    up = [
        f"{name} -> {target}"
        for name, targets in both().items()
        for target in sorted(targets)
        if name.startswith(f"{part}.") and target.startswith(f"{part}.")
        if rank(target, part) < rank(name, part)
    ]
    assert up == []


def test_the_host_knows_no_method_and_no_registry():
    strangers = [
        f"{name} -> {target}"
        for name, targets in both().items()
        for target in targets
        if target.partition(".")[0] not in ALLOWED[name.partition(".")[0]]
    ]
    assert strangers == []


def private_names():
    """Return the names that transformers' Trainer keeps for itself."""
    return {n for n in vars(Trainer) if n.startswith("_") and not n.startswith("__")}


def test_private_names_of_the_trainer_stand_in_two_folders():
    """A class of our own may use such a name for itself: ``self._save`` outside of a Trainer."""
    private = private_names()
    assert {"_save_checkpoint", "_load_best_model"} <= private
    named = {
        f"{name}: {node.attr}"
        for name, (_, tree) in modules().items()
        if not name.startswith(("ftplug.training", "ftplug.base"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in private
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    assert named == set()


def test_frames_are_walked_in_one_module():
    walking = {
        name
        for name, (_, tree) in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("_getframe", "currentframe", "f_back", "f_locals", "stack")
        and not (node.attr == "stack" and ast.unparse(node.value) != "inspect")
    }
    assert walking == {"ftplug.frames"}


def test_a_folder_holds_what_can_be_looked_through():
    crowd = defaultdict(list)
    for folder in ("ftplug", "plugins", "registry", "tests", "benchmarks", "examples", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            crowd[path.parent.relative_to(ROOT)].append(path.name)
    assert {str(k): len(v) for k, v in crowd.items() if len(v) > 22} == {}


def test_files_and_functions_are_short():
    lengths = {
        p.relative_to(ROOT): len(p.read_text("utf-8").splitlines()) for p, _ in modules().values()
    }
    assert {str(path): count for path, count in lengths.items() if count > 300} == {}
    sizes = [
        node.end_lineno - node.lineno + 1
        for _, tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    ]
    assert statistics.quantiles(sizes, n=10)[-1] <= 22


# What a release of a library changed stands in these places alone; of the last each has a part.
VERSIONS = {
    "ftplug.training.compat",
    "ftplug.structure.versions",
    "ftplug_plugins.peft_bridge.versions",
    "ftplug_registry.client",
}


def asks_for_versions(tree):
    """Yield what in a module depends on the version of a library."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None) or ""
            parses = module == "packaging.requirements"  # names of packages, and asks for none
            if not parses and "packaging" in [n.partition(".")[0] for n in [*names, module]]:
                yield "packaging"
            yield from (name for name in names if re.search(r"is_\w+_version|parse_version", name))
        elif isinstance(node, ast.Compare):
            for part in ast.walk(node):
                called = isinstance(part, ast.Call) and ast.unparse(part.func).endswith("version")
                if called or (isinstance(part, ast.Attribute) and part.attr == "__version__"):
                    yield ast.unparse(node)


@pytest.mark.parametrize(
    "code",
    [
        "from packaging.version import Version",
        "from transformers.utils import is_torch_greater_or_equal, is_peft_min_version",
        "if peft.__version__ >= '0.20': pass",
        "new = metadata.version('peft') == '0.19.1'",
        "new = Version(version('peft')).minor < 3",
    ],
)
def test_a_question_for_a_version_is_seen(code):
    assert list(asks_for_versions(ast.parse(code)))


def test_versions_of_libraries_matter_in_four_places():
    asking = {name for name, (_, tree) in modules().items() if list(asks_for_versions(tree))}
    assert {name for name in asking if not name.startswith(tuple(VERSIONS))} == set()
