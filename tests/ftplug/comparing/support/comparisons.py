"""The folder of a made-up comparison: five candidates, three rates, three seeds, some that fail."""

import random
from pathlib import Path

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.results import CELLS, FILE, Result, to_line
from ftplug.comparing.summary import Judged, Summary

RATES = (1e-4, 3e-4, 1e-3)
SEEDS = (0, 1, 2)
BASELINE = "full"
MIB = 2**20
# candidate: accuracy, seconds, MiB of memory, parameters, MiB of the artifact
CANDIDATES = {
    "lora r=8": (0.861, 41.0, 910, 294_912, 1.2),
    "lora+bitfit lora.r=4": (0.846, 43.5, 905, 200_000, 0.9),
    "freeze layers=2": (0.842, 19.2, 640, 3_400_000, 13.1),
    "prompt-tuning num_virtual_tokens=20": (0.731, 47.0, 930, 15_360, 0.1),
    BASELINE: (0.843, 62.0, 1480, 22_700_000, 87.0),
}
BEST = "lora r=8"


def comparison(folder: Path, **more: object) -> Comparison:
    given = {
        "command": ("train.py", "--epochs", "4", "--output_dir", "out"),
        "module": False,
        "folder": str(folder),
        "candidates": tuple(CANDIDATES),
        "baseline": BASELINE,
        "key": "ab" * 32,
        "rates": RATES,
        "seeds": len(SEEDS),
        "metric": "accuracy",
    }
    return Comparison(**(given | more))


def results(**more: object) -> list[Result]:
    draw = random.Random(0)
    found = []
    for candidate, (best, seconds, memory, parameters, artifact) in CANDIDATES.items():
        for at, lr in enumerate(RATES):
            for seed in SEEDS:
                value = best - 0.021 * abs(at - 1) + draw.uniform(-0.008, 0.008)
                curve = [value - 0.11 * 0.5**epoch for epoch in range(1, 4)] + [value]
                found.append(
                    Result(
                        *(candidate, lr, seed, "finished"),
                        metric="accuracy",
                        set="test",
                        chosen_by=value,
                        metrics={"accuracy": value, "loss": 1 - value},
                        epochs=[
                            {"epoch": float(e), "metrics": {"accuracy": v}}
                            for e, v in enumerate(curve, start=1)
                        ],
                        train_seconds=seconds * draw.uniform(0.95, 1.05),
                        evaluation_seconds=2.1,
                        peak_rss=int(memory * MIB),
                        trained_parameters=parameters,
                        total_parameters=22_700_000,
                        optimizer_bytes=8 * parameters,
                        artifact_bytes=int(artifact * MIB),
                        outcomes="cells/x/outcomes.safetensors",
                        methods=[methods_of(candidate)],
                        **more,
                    )
                )
    _spoil(found)
    return found


def methods_of(candidate: str) -> dict[str, object]:
    name, *settings = candidate.split(" ")
    values = {k: int(v) for k, v in (text.split("=") for text in settings) if "." not in k}
    return {
        "name": name.partition("+")[0],
        "settings": values,
        "distribution": "ftplug",
        "version": "0.1.0",
    }


def _spoil(found: list[Result]) -> None:
    """Let some cells end otherwise, one of each status; none of a chosen rate but one."""
    ends = {
        2: ("diverged", "the loss was nan at step 12"),
        11: ("pruned", "after epoch 1 its accuracy was 0.71, and 0.79 the median"),
        20: ("failed", "ValueError: the script raised: 'labels' is missing"),
        26: ("out_of_memory", "the process was killed at 23.1 GiB of memory"),
        34: ("failed", "killed by signal 9"),
    }
    for at, (status, reason) in ends.items():
        result = found[at]
        result.status, result.reason = status, reason
        result.metrics, result.epochs, result.outcomes = {}, result.epochs[:1], None


def summary(**more: object) -> Summary:
    rest = {"seeds": list(SEEDS), "lr": RATES[1]}
    judged = [
        Judged(
            BEST, verdict="better", difference=0.0183, interval=(0.0071, 0.0296),
            interval_90=(0.0089, 0.0277), p=0.0032, mean=0.8613, pareto=True, **rest,
        ),
        Judged(
            "lora+bitfit lora.r=4", verdict="equivalent", difference=0.0021,
            interval=(-0.0075, 0.0117), interval_90=(-0.0058, 0.0099), p=0.71, mean=0.8451,
            pareto=True, **rest,
        ),
        Judged(
            "freeze layers=2", verdict="not_decided", difference=-0.0034,
            interval=(-0.0197, 0.0129), interval_90=(-0.017, 0.0102), p=0.71, mean=0.8396,
            reason="the 90 % interval is wider than ±0.01", more_seeds=4, pareto=True,
            notes=["its best rate, 1e-3, lies at the edge of the grid"], **rest,
        ),
        Judged(
            "prompt-tuning num_virtual_tokens=20", verdict="worse", difference=-0.1104,
            interval=(-0.1312, -0.0893), interval_90=(-0.128, -0.0925), p=0.0004, mean=0.7326,
            pareto=True, **rest,
        ),
        Judged(BASELINE, verdict="baseline", mean=0.8430, **rest),
    ]  # fmt: skip
    given = {
        "metric": "accuracy",
        "greater_is_better": True,
        "set": "test",
        "baseline": BASELINE,
        "delta": 0.01,
        "candidates": judged,
        "best": BEST,
        "notes": ["seeds vary order, dropout and the head"],
    }
    return Summary(**(given | more))


def written(directory: Path, **more: object) -> tuple[Comparison, list[Result], Summary]:
    """Write the folder of a comparison as it lies there before it is shown."""
    made = comparison(directory.parent, **more), results(), summary()
    directory.mkdir(parents=True, exist_ok=True)
    made[0].write(directory)
    made[2].write(directory)
    (directory / FILE).write_text("".join(to_line(r) + "\n" for r in made[1]), encoding="utf-8")
    for result in made[1]:
        cell = directory / CELLS / result.cell.id
        cell.mkdir(parents=True)
        (cell / "log.txt").write_text("step 1\n")
    return made
