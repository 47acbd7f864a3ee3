"""The examples of a batch as a trunk reads them: by content, whatever padding they came with."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ftplug_plugins.trunk_cache.cut import TrunkSpec
from ftplug_plugins.virtual.positions import is_packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_TOKENS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
_NO_INPUT = frozenset({"return_dict", "num_items_in_batch"})  # say nothing about hidden states
_MULTIPLE = 8  # examples are run padded to a multiple of this


class Rows(Protocol):
    """The examples of a batch: a key for each, and how to run some of them."""

    keys: list[bytes]
    device: torch.device
    tag: str  # the precision they are read in

    def span(self, row: int) -> slice:
        """Return which positions of the batch an example's hidden states stand at."""

    def length(self, tokens: int) -> int:
        """Return how long the batch is, where an example has ``tokens`` hidden states."""

    def batches(self, rows: Sequence[int]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield some of the rows in batches to run, each with the rows' numbers."""


class TokenRows:
    """Rows of tokens: what lies between the first and the last token that is not padding.

    A model whose answers do not depend on where in the row the text begins (``relative``) gets it
    without the padding in front; other models read that as positions, and so it is content.
    """

    def __init__(
        self, given: Mapping[str, Tensor], config: Any, tag: str, *, relative: bool
    ) -> None:
        import numpy

        self.device, self.tag = given["input_ids"].device, tag
        shape = given["input_ids"].shape
        self.width: int = shape[1]
        mask = given.get("attention_mask")
        values = {**given, "attention_mask": given["input_ids"].new_ones(shape) if mask is None
                  else mask.long()}  # fmt: skip
        self.pad = {"input_ids": getattr(config, "pad_token_id", None) or 0}
        self.longest = getattr(config, "max_position_embeddings", None) or self.width + _MULTIPLE
        self.arrays = {name: values[name].expand(shape).cpu().numpy() for name in sorted(values)}
        real = self.arrays["attention_mask"] != 0
        self.stops = self.width - numpy.argmax(real[:, ::-1], axis=1)
        self.starts = numpy.argmax(real, axis=1)
        if not (relative or "position_ids" in given):
            self.starts[:] = 0
        self.keys = [self._key(row) for row in range(shape[0])]

    def _key(self, row: int) -> bytes:
        digest = hashlib.blake2b(f"{self.tag} {' '.join(self.arrays)}".encode(), digest_size=16)
        for array in self.arrays.values():
            digest.update(array[row, self.span(row)].tobytes())
        return digest.digest()

    def span(self, row: int) -> slice:
        """Return where the content stands."""
        return slice(self.starts[row], self.stops[row])

    def length(self, tokens: int) -> int:
        """Return the length with padding."""
        return self.width

    def batches(self, rows: Sequence[int]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Run together what is padded to the same length, and apart what needs no padding at all.

        So the shape that an example is run in, but for the number of rows, depends on itself alone.
        """
        import numpy
        import torch

        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for row in rows:
            count = int(self.stops[row] - self.starts[row])
            padded = max(count, min(-(-count // _MULTIPLE) * _MULTIPLE, self.longest))
            groups[padded, padded == count].append(row)
        for (padded, _), group in groups.items():
            batch: dict[str, Any] = {}
            for name, array in self.arrays.items():
                filled = numpy.full((len(group), padded), self.pad.get(name, 0), array.dtype)
                for line, row in zip(filled, group, strict=True):
                    content = array[row, self.span(row)]
                    line[: len(content)] = content
                batch[name] = torch.from_numpy(filled).to(self.device)
            yield group, batch


class ImageRows:
    """Images, all of one size."""

    def __init__(self, given: Mapping[str, Tensor], tag: str) -> None:
        import torch

        self.pixels = given["pixel_values"]
        self.device, self.tag = self.pixels.device, tag
        raw = self.pixels.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
        start = f"{tag} {self.pixels.dtype} {tuple(self.pixels.shape[1:])}".encode()
        self.keys = [hashlib.blake2b(start + row.tobytes(), digest_size=16).digest() for row in raw]

    def span(self, row: int) -> slice:
        """An image has no padding."""
        return slice(None)

    def length(self, tokens: int) -> int:
        """Return the number of patches, and of what the model adds to them."""
        return tokens

    def batches(self, rows: Sequence[int]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Run them together: they have one shape."""
        if rows:
            yield list(rows), {"pixel_values": self.pixels[list(rows)]}


def rows_of(backbone: Any, spec: TrunkSpec, given: Mapping[str, Any]) -> Rows | None:
    """Return the examples of a call, or None for one that asks for more than hidden states."""
    import torch

    config = backbone.config
    used = {
        name: value
        for name, value in given.items()
        if value is not None and value is not False and name not in _NO_INPUT
    }
    asks = [f"output_{what}" for what in ("hidden_states", "attentions")]
    if any(given.get(name, getattr(config, name, False)) for name in asks):
        return None
    # A training step leaves no keys and values that anybody goes on from.
    fills = spec.causal and given.get("use_cache") is None and getattr(config, "use_cache", False)
    if (fills and not backbone.training) or getattr(backbone, "_is_replica", False):
        return None  # a replica of DataParallel is gone after one batch
    if not all(isinstance(value, torch.Tensor) for value in used.values()):
        return None
    if is_packed(used):
        return None  # what a row attends to is not in its tokens alone
    tag = _computed_in(backbone)
    if used.keys() == {"pixel_values"}:
        return ImageRows(used, tag)
    if "input_ids" in used and used.keys() <= _TOKENS and all(v.ndim == 2 for v in used.values()):
        return TokenRows(used, config, tag, relative=spec.relative)
    return None


def _computed_in(backbone: nn.Module) -> str:
    """Name the precision of this pass: autocast gives other hidden states."""
    import torch

    parameter = next(backbone.parameters())
    kind = parameter.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return f"{parameter.dtype} {dtype}"
