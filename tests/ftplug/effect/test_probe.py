"""A probe and its file: what is written comes back, and what a stranger wrote is checked whole."""

import contextlib
import json
import random
import struct

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ftplug.effect.answers import Raw, ask, make_probe
from ftplug.effect.inputs import inputs_for
from ftplug.effect.pieces import Continuation, Drawn, Input
from ftplug.effect.probe import FILE, Probe
from ftplug.errors import ArtifactError

ABOUT = "ftplug_probe"


def moved(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def probe_of(model, **more):
    inputs = inputs_for(model, None)
    base = ask(model, inputs)
    return make_probe(inputs, base, ask(moved(model), inputs), base, dtype="float32", **more)


def same_answers(first, second):
    if first is None or second is None:
        return first is second
    return all(
        a.keys() == b.keys() and all(a[kind].equal(b[kind]) for kind in a)
        for a, b in zip(first, second, strict=True)
    )


def same(first, second):
    inputs = zip(first.inputs, second.inputs, strict=True)
    return (
        all(
            a.text == b.text
            and a.drawn == b.drawn
            and a.stored.keys() == b.stored.keys()
            and all(a.stored[n].equal(b.stored[n]) for n in a.stored)
            and all(a.stored[n].dtype == b.stored[n].dtype for n in a.stored)
            for a, b in inputs
        )
        and same_answers(first.trained, second.trained)
        and same_answers(first.head_only, second.head_only)
        and same_answers(first.base, second.base)
        and all(a.equal(b) for a, b in zip(first.token_ids, second.token_ids, strict=True))
        and first.continuations == second.continuations
        and (first.dtype, first.classes) == (second.dtype, second.classes)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A language model's probe, and its file."""
    probe = probe_of(tiny.llama())
    more = Continuation(0, (3, 4), "a b", (5,), "c"), Continuation(1, (2,), "", None, None)
    probe = Probe(**vars(probe) | {"continuations": more})
    path = tmp_path_factory.mktemp("probe") / FILE
    probe.write(path)
    return probe, path


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "vit", "bert-token"])
def test_what_is_written_comes_back(family, tmp_path):
    probe = probe_of(tiny.FAMILIES[family]())
    probe.write(tmp_path / FILE)
    assert same(Probe.read(tmp_path / FILE), probe)
    assert (tmp_path / FILE).stat().st_size <= 2**16
    again = tmp_path / "again"
    Probe.read(tmp_path / FILE).write(again)
    assert again.read_bytes() == (tmp_path / FILE).read_bytes()


def test_continuations_come_back(written):
    probe, path = written
    assert same(Probe.read(path), probe)


def test_a_fresh_head_leaves_of_the_base_what_does_not_pass_it(tmp_path):
    probe = probe_of(tiny.bert(), fresh_head=True)
    assert {kind for each in probe.base for kind in each} == {"hidden"}
    assert {kind for each in probe.head_only for kind in each} == {"hidden", "logits"}
    probe.write(tmp_path / FILE)
    assert same(Probe.read(tmp_path / FILE), probe)


WHOLE = (
    torch.tensor([[0, 255, 256]]),
    torch.tensor([[-1]]),
    torch.tensor([[2**40]]),
    torch.tensor([[True, False]]),
    torch.zeros(1, 2, 3, 4, dtype=torch.long),
)
TEXTS = (None, "", 'naïve \u2028 \\ {["', "[" * 9 + '\\"{', "{{[[" * 5 + "\\")


@pytest.mark.parametrize("seed", range(20))
def test_any_probe_comes_back(seed, tmp_path):
    draw = random.Random(seed)
    given = tuple(
        Input(
            {name: draw.choice(WHOLE) for name in draw.sample(("input_ids", "bbox"), 1)},
            {"pixel_values": Drawn(draw.randrange(9), (1, 2), "0" * 64, draw.randrange(3))}
            if i % 2
            else {},
            draw.choice(TEXTS),
        )
        for i in range(draw.randint(1, 4))
    )
    count, lacking = draw.randrange(6), draw.randrange(5)
    rows = tuple(
        {"hidden": torch.randn(3)} | ({} if i == lacking else {"logits": torch.randn(count)})
        for i, _ in enumerate(given)
    )
    probe = Probe(given, rows, rows, draw.choice((None, rows)), dtype="bfloat16", classes=count)
    probe.write(tmp_path / FILE)
    assert same(Probe.read(tmp_path / FILE), probe)


def test_a_probe_over_64_kib_is_not_written(tmp_path):
    rows = ({"logits": torch.zeros(2**14)},)
    probe = Probe((Input({"input_ids": torch.tensor([[1]])}, {}),), rows, rows, None)
    with pytest.raises(ArtifactError, match="where a probe has 65,536"):
        probe.write(tmp_path / FILE)
    assert not (tmp_path / FILE).exists()


# What a stranger may write


def parts(path):
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()[ABOUT])


def rewritten(path, tensors, about, where):
    text = about if isinstance(about, str) else json.dumps(about)
    save_file(tensors, where, metadata={ABOUT: text})
    return where


def without(key):
    return lambda tensors, about: about.pop(key)


def at(*keys, to):
    def change(tensors, about):
        inner = about
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


def tensor(name, value):
    return lambda tensors, about: tensors.update({name: value})


def lose(name):
    return lambda tensors, about: tensors.pop(name)


DRAWN = {"seed": 0, "shape": [1, 3, 8, 8], "sha256": "0" * 64}
FORGED = {
    "another version": (at("version", to=2), "another version"),
    "no inputs": (at("inputs", to=[]), "inputs"),
    "too many inputs": (at("inputs", to=[{"text": None, "stored": {}, "drawn": {}}] * 99), "input"),
    "no dtype": (without("dtype"), "dtype"),
    "a number for a text": (at("inputs", 0, "text", to=3), "text"),
    "a long text": (at("inputs", 0, "text", to="x" * 2000), "text"),
    "an index of no tensor": (at("inputs", 0, "stored", "input_ids", to=900), "missing"),
    "a path for a name": (at("inputs", 0, "stored", "../x", to=0), "no name of an argument"),
    "a private name": (at("inputs", 0, "stored", "__class__", to=0), "no name of an argument"),
    "huge pixels": (
        at("inputs", 0, "drawn", "pixel_values", to=DRAWN | {"shape": [4096, 4096]}),
        "draws 16,777,216 numbers",
    ),
    "many dims": (at("inputs", 0, "drawn", "p", to=DRAWN | {"shape": [1] * 9}), "shape"),
    "no columns": (at("inputs", 0, "drawn", "p", to=DRAWN | {"columns": 0}), "columns"),
    "places in a row of one": (
        at("inputs", 0, "drawn", "p", to=DRAWN | {"shape": [4, 1], "columns": 2}),
        "no patches with a place",
    ),
    "an empty shape": (at("inputs", 0, "drawn", "p", to=DRAWN | {"shape": [0]}), "shape"),
    "a negative seed": (at("inputs", 0, "drawn", "p", to=DRAWN | {"seed": -1}), "seed"),
    "true for a seed": (at("inputs", 0, "drawn", "p", to=DRAWN | {"seed": True}), "seed"),
    "counts beyond the file": (at("counts", "logits", 0, to=4000), "other than the"),
    "negative counts": (at("counts", "logits", 0, to=-1), "counts"),
    "counts of too few": (at("counts", "logits", to=[64]), "not of 8 inputs"),
    "NaN": (
        lambda tensors, about: tensors["trained.logits"].__setitem__(3, float("nan")),
        "NaN or infinite",
    ),
    "infinite": (
        lambda tensors, about: tensors["base.log_probs"].__setitem__(0, float("-inf")),
        "NaN or infinite",
    ),
    "half precision": (
        lambda tensors, about: tensors.update(
            {"trained.logits": tensors["trained.logits"].bfloat16()}
        ),
        "no float32",
    ),
    "a matrix": (
        lambda tensors, about: tensors.update({"trained.logits": tensors["trained.logits"][None]}),
        "other than the",
    ),
    "no answers": (lose("trained.logits"), "trained.logits is missing"),
    "no head only": (lose("head_only.log_probs"), "head_only.log_probs is missing"),
    "no token ids": (lose("token_ids"), "token_ids is missing"),
    "negative tokens": (
        lambda tensors, about: tensors["token_ids"].__setitem__(0, -1),
        "does not fit",
    ),
    "a tensor more": (tensor("extra", torch.zeros(2)), "belongs to nothing"),
    "an input more": (tensor("stored.99", torch.zeros(1, 2, dtype=torch.long)), "missing"),
    "floats for ids": (tensor("stored.0", torch.zeros(1, 10)), "float32"),
    "a long input": (tensor("stored.0", torch.zeros(1, 9000, dtype=torch.uint8)), "9,000 numbers"),
    "a continuation of no input": (at("continuations", 0, "input", to=20), "no input"),
    "half a continuation": (at("continuations", 0, "base", to=None), "half of one"),
    "a number too much": (at("classes", to=2**70), "classes"),
}  # fmt: skip


def emptied(name):
    """Return a change to a tensor without numbers, and to no counts where counts tell of it."""

    def change(tensors, about):
        tensors[name] = tensors[name].flatten()[:0]
        kind = "log_probs" if name == "token_ids" else name.partition(".")[2]
        if name == "token_ids":
            about["token_counts"] = [0] * len(about["inputs"])
        if kind in about["counts"]:
            about["counts"][kind] = [0] * len(about["inputs"])
            for each in [n for n in tensors if n.endswith(f".{kind}")]:
                tensors[each] = tensors[each][:0]

    return change


def test_a_tensor_without_numbers_is_no_crash(written, tmp_path):
    names = list(parts(written[1])[0])
    assert "token_ids" in names
    for name in names:
        tensors, about = parts(written[1])
        emptied(name)(tensors, about)
        path = rewritten(written[1], tensors, about, tmp_path / FILE)
        if name.startswith(("stored.", "token_ids")):
            with pytest.raises(ArtifactError):
                Probe.read(path)
        else:  # of that kind no input has an answer
            kind = name.partition(".")[2]
            with contextlib.suppress(ArtifactError):
                assert not any(len(each.get(kind, ())) for each in Probe.read(path).trained)


@pytest.mark.parametrize("what", FORGED)
def test_what_is_no_probe_is_refused_in_one_line(what, written, tmp_path):
    change, expected = FORGED[what]
    tensors, about = parts(written[1])
    change(tensors, about)
    path = rewritten(written[1], tensors, about, tmp_path / FILE)
    with pytest.raises(ArtifactError, match=expected) as refusal:
        Probe.read(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        '["' * 9,
        '"' + '\\"' * 30_000 + "\\",
        "",
        "null",
        "3",
        "[]",
        '{"version":1}',
        '{"version":NaN}',
        "{",
    ],
)
def test_metadata_that_are_no_probes_are_refused_in_one_line(text, written, tmp_path):
    tensors, _ = parts(written[1])
    with pytest.raises(ArtifactError) as refusal:
        Probe.read(rewritten(written[1], {"a": torch.zeros(1)}, text, tmp_path / FILE))
    assert "\n" not in str(refusal.value)
    assert tensors


def raw_file(path, header):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


@pytest.mark.parametrize("shape", [[0, 2**60, 2**60], [2**60], [2**31, 2**31]])
def test_a_header_asks_for_no_memory(shape, tmp_path):
    header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    path = raw_file(tmp_path / FILE, header | {"__metadata__": {ABOUT: "{}"}})
    with pytest.raises(ArtifactError):
        Probe.read(path)


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    (tmp_path / FILE).write_bytes(b"\0" * (2**16 + 1))
    with pytest.raises(ArtifactError, match="at most 65,536"):
        Probe.read(tmp_path / FILE)


def test_no_file_and_no_probe_are_said(tmp_path):
    with pytest.raises(ArtifactError, match="not readable"):
        Probe.read(tmp_path / FILE)
    save_file({"a": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(ArtifactError, match="no probe of ftplug"):
        Probe.read(tmp_path / FILE)


@pytest.mark.parametrize("seed", range(40))
def test_a_byte_that_changed_gives_a_probe_or_one_line(seed, written, tmp_path):
    content = bytearray(written[1].read_bytes())
    draw = torch.Generator().manual_seed(seed)
    for place in torch.randint(0, len(content), (3,), generator=draw).tolist():
        content[place] ^= 1 << (seed % 8)
    (tmp_path / FILE).write_bytes(content)
    with contextlib.suppress(ArtifactError):  # what it says is always one line
        Probe.read(tmp_path / FILE)


# What it says of an effect


def test_no_change_is_no_effect(written):
    probe, _ = written
    none = Probe(**vars(probe) | {"trained": probe.head_only}).effect()
    assert (none.kl, none.changed, none.distance, none.is_nil) == (0, 0, 0, True)
    assert not probe.effect().is_nil


def test_the_effect_is_that_of_the_distributions():
    given_inputs = (Input({"input_ids": torch.tensor([[1]])}, {}),)
    trained, base = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    raws = [(Raw({"logits": logits}, classes=2),) for logits in (base, trained, base)]
    effect = make_probe(given_inputs, *raws, dtype="float32").effect()
    p, q = trained.softmax(0), base.softmax(0)
    assert effect.kl == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-6)
    assert effect.changed == 1
    assert effect.distance == pytest.approx(float((trained - base).norm() / base.norm()))


def test_numbers_that_are_no_distribution_have_a_distance_alone():
    probe = probe_of(tiny.vit("", num_labels=2))
    assert (probe.effect().kl, probe.effect().changed) == (None, None)
    assert probe.effect().distance > 0
