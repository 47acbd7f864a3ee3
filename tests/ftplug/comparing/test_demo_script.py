"""The demo's script: what ``ftplug compare`` runs where it is given none."""

import pytest
from cells import ran

from ftplug.comparing.outcomes import read_outcomes

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_it_is_a_cell_like_any_other(tmp_path):
    result = ran(
        tmp_path,
        "",
        "freeze layers=0",
        lr=1e-3,
        command=("ftplug.demo.script", "--epochs", "1", "--limit", "48"),
        module=True,
    )
    assert (result.status, result.metric, result.set) == ("finished", "accuracy", "test")
    assert result.notes == ["args.output_dir is a folder of the cell's own"]
    assert [epoch["epoch"] for epoch in result.epochs] == [1.0]
    found = read_outcomes(tmp_path / "DIR" / result.outcomes)
    assert len(found.outcomes) == 48
    assert found.outcomes.mean() == pytest.approx(result.value, abs=1e-6)
    assert result.value == result.metrics["accuracy"]
