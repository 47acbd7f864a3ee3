"""The kit of wheels for a machine with a GPU: what it lacks, and nothing that it has."""

import tomllib

import pytest
from gpu_kit import TABLE, Machine, gather, megabytes

PINS = {
    "torch": {"torch==2.11.0", "numpy==2.5.2"},
    "transformers": {"transformers==5.17.0", "tokenizers==0.23.2"},
    "transformers>5": {"transformers==5.24.0", "tokenizers==0.24.0"},
    "trl": {"trl==1.16.0", "requests==2.34.2"},
    "typer": {"typer==0.29.2", "pydantic==2.14.4"},
    "typer==0.29.2": {"typer==0.29.2", "pydantic==2.14.4"},
}


@pytest.fixture
def machine(monkeypatch):
    def resolved(self, requirements):
        return {pin for line in requirements for pin in PINS.get(line, {line})}

    monkeypatch.setattr(Machine, "resolved", resolved)
    return Machine(
        "3.12", "x86_64-manylinux_2_28", ["torch", "transformers", "typer"], ["pydantic"]
    )


def test_it_holds_what_is_wanted_and_what_that_needs(machine):
    assert machine.missing(["trl", "torch"]) == [
        "pydantic==2.14.4",
        "requests==2.34.2",
        "trl==1.16.0",
    ]


def test_what_is_replaced_comes_in_another_version(machine):
    found = machine.missing(["transformers>5"], ["transformers", "tokenizers"])
    assert {"transformers==5.24.0", "tokenizers==0.24.0"} <= set(found)
    assert not any(pin.startswith("torch") for pin in found)


def test_a_kit_that_cannot_be_gathered_leaves_the_one_before(machine, monkeypatch, tmp_path):
    folder = tmp_path / "kit"
    folder.mkdir()
    (folder / "old.whl").write_bytes(b"12345")
    monkeypatch.setattr("gpu_kit.sys.executable", "/bin/false")
    with pytest.raises(SystemExit):
        gather(machine, {"wants": ["trl"]}, folder)
    assert [file.name for file in tmp_path.rglob("*")] == ["kit", "old.whl"]
    assert megabytes(folder) == 5e-6


def test_the_table_names_kits_that_install_ftplug():
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    assert all("." in kit["wants"] for kit in table["kits"].values())
    assert table["megabytes"] <= 50
