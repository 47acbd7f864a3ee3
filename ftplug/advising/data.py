"""Advice on the data: padding, the order of rows, who fetches the batches."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ftplug.advising.advice import Advice

if TYPE_CHECKING:
    from ftplug.advising.seen import Seen

ROWS = 20_000  # that are looked at; of more, as many drawn at random
LITTLE = 0.02  # of the tokens: less padding is nobody's business
WAITING = 0.05  # of a step: less waiting for its batch is nobody's business


def padding(seen: Seen) -> Iterator[Advice]:
    """Pad to the longest row of a batch; put rows of about the same length together."""
    counts = [batch.tokens for batch in seen.batches if batch.tokens]
    if not counts:
        return
    real = sum(count.real for count in counts)
    now = 1 - real / sum(count.rows * count.width for count in counts)
    longest = 1 - real / sum(count.rows * count.longest for count in counts)
    if now - longest > LITTLE:
        yield Advice(
            "padding=False where texts are tokenized, data_collator=DataCollatorWithPadding(…)",
            (1 - longest) / (1 - now),
            f"{now:.0%} of the tokens are padding; {longest:.0%} are, if a batch is as long as its "
            "longest row",
            f"counted over {len(counts)} batches",
        )
    if seen.args.train_sampling_strategy == "random":
        yield from order(seen)


def order(seen: Seen) -> Iterator[Advice]:
    """Put rows of about the same length together, or several into one row."""
    rows = lengths(seen.trainer.train_dataset)
    if not rows:
        return
    size, seed = seen.args.per_device_train_batch_size, seen.args.seed
    random_order = random.Random(seed).sample(rows, len(rows))
    before = share(random_order, size)
    grouped = share([rows[i] for i in grouped_order(rows, size, seed)], size)
    counted = f"counted over {len(rows):,} rows"
    if before - grouped > LITTLE:
        yield Advice(
            'train_sampling_strategy="group_by_length"',
            (1 - grouped) / (1 - before),
            f"{before:.0%} of the tokens are padding; {grouped:.0%} are, if rows of about the same "
            "length share a batch (batches are less random then)",
            counted,
        )
    if before > LITTLE and packs(seen):
        yield Advice(
            "packing=True",
            1 / (1 - before),
            f"{before:.0%} of the tokens are padding; none are, if rows are packed, which "
            "FlashAttention keeps apart (a step has more rows then: look at the learning rate)",
            counted,
        )


def packs(seen: Seen) -> bool:
    """Whether the Trainer can pack rows, and does not: TRL's, with an attention made for it."""
    attention = str(getattr(seen.config, "_attn_implementation", ""))
    return getattr(seen.args, "packing", None) is False and "flash" in attention


def lengths(dataset: Any) -> list[int]:
    """Return how many tokens of each row are no padding.

    Empty where rows have no ``input_ids``, or where nobody knows how many rows there are.
    """
    try:
        count = len(dataset)
        chosen = range(count) if count <= ROWS else random.Random(0).sample(range(count), ROWS)
        return [_length(dataset[i]) for i in chosen]
    except (TypeError, KeyError, AttributeError, NotImplementedError, IndexError):
        return []


def _length(example: Any) -> int:
    mask = example.get("attention_mask")
    return len(example["input_ids"]) if mask is None else int(sum(mask))


def share(widths: Sequence[int], size: int) -> float:
    """Return the share of padding where batches, in this order, are as long as their longest."""
    batches = [widths[start : start + size] for start in range(0, len(widths), size)]
    return 1 - sum(widths) / sum(max(batch) * len(batch) for batch in batches)


def grouped_order(widths: list[int], size: int, seed: int) -> list[int]:
    """Return the order in which the Trainer takes rows that are grouped by length."""
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    draw = torch.Generator().manual_seed(seed)
    return list(LengthGroupedSampler(size, lengths=widths, generator=draw))


def workers(seen: Seen) -> Iterator[Advice]:
    """Fetch batches in other processes, where a device waits for them."""
    if seen.args.dataloader_num_workers or seen.device.type == "cpu":  # whose cores train
        return
    waiting = seen.fetching / (seen.fetching + seen.seconds)
    cores = os.cpu_count() or 1
    if waiting < WAITING or cores < 2:
        return
    yield Advice(
        f"dataloader_num_workers={min(4, cores - 1)}",
        1 / (1 - waiting),
        f"a step waits {1000 * seen.fetching:,.1f} ms for its batch and takes "
        f"{1000 * seen.seconds:,.1f} ms; at best it waits no longer",
        f"measured here over {len(seen.batches)} batches",
    )
