"""What a dry run prints: which tensors would train, and what memory they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.attaching.reach import towers
from ftplug.structure.shards import numel_of, shape_of

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ftplug.training.run import Run


def dry_run_text(run: Run, args: TrainingArguments) -> str:
    """Return the plan of a run: targets, trained parameters, memory without activations."""
    attached, model = run.attached, run.model
    live = dict(model.named_parameters())
    trained = {name: live[name] for name in attached.plan.may_train}
    count, total = sum(numel_of(p) for p in trained.values()), attached.base.total
    weights = sum(numel_of(p) * p.element_size() for p in live.values())
    gradients = sum(numel_of(p) * p.element_size() for p in trained.values())
    mib = 2**20
    lines = [
        f"ftplug dry run: {attached.host.names} on {attached.context.model_class}",
        f"  trains {count:,} of {total:,} parameters ({count / total:.2%}) "
        f"in {len(trained)} tensors",
        *(f"    {name} {tuple(shape_of(p))}" for name, p in list(trained.items())[:8]),
    ]
    if len(trained) > 8:
        lines.append(f"    … and {len(trained) - 8} more")
    lines += [f"  in {part}: {n} tensors" for part, n in towers(model, attached.plan).items()]
    lines += [
        f"  learning rate {args.learning_rate:g}, optimizer {getattr(args.optim, 'value', '')}",
        f"  memory without activations: weights {weights / mib:,.1f} MiB, gradients "
        f"{gradients / mib:,.1f} MiB, two optimizer moments {2 * gradients / mib:,.1f} MiB",
        "  stopped before the first step",
    ]
    return "\n".join(lines)
