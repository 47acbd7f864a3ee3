"""Batches for small models, made from the signature of the forward and the config."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch

ROWS, LENGTH, FRAMES = 2, 8, 2
Batch = dict[str, torch.Tensor]


def batches(model: Any, task: str) -> Iterator[Batch]:
    """Yield batches that a model may take, the fullest first: with what it reads, with labels."""
    takes = inspect.signature(model.forward).parameters
    text = _text(model, takes)
    for seen in _seen(model, takes):
        for heard in _heard(model, takes):
            inputs = text | seen | heard
            for labels in [*_labels(takes, task, inputs), {}]:
                yield inputs | labels


def _text(model: Any, takes: Mapping[str, Any]) -> Batch:
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None) or 100
    draw = torch.Generator().manual_seed(0)
    shape = (ROWS, 2, LENGTH) if "MultipleChoice" in type(model).__name__ else (ROWS, LENGTH)
    ids = torch.randint(3, max(4, min(vocabulary, 8)), shape, generator=draw)
    eos = getattr(model.config.get_text_config(), "eos_token_id", None)
    if isinstance(eos, int) and 0 <= eos < vocabulary:
        ids[..., -1] = eos  # BART's classifier pools it
    batch = {"input_ids": ids, "decoder_input_ids": ids}
    batch["bbox"] = torch.zeros(*shape, 4, dtype=torch.long)
    batch["attention_mask"] = torch.ones_like(ids)
    if "input_ids" not in takes:
        batch.pop("attention_mask")
    return {name: value for name, value in batch.items() if name in takes}


def _labels(takes: Mapping[str, Any], task: str, inputs: Batch) -> Iterator[Batch]:
    one, few = torch.zeros(ROWS, dtype=torch.long), torch.full((ROWS, 3), 3)
    if "start_positions" in takes:
        yield {"start_positions": one, "end_positions": one}
    if "labels" in takes:
        ids = inputs.get("decoder_input_ids", inputs.get("input_ids"))
        words = [few] if ids is None else [ids % 2 if "token" in task else ids]
        first = [one, *words] if "classification" in task and "token" not in task else [*words, one]
        yield from ({"labels": labels} for labels in [*first, few])


def _seen(model: Any, takes: Mapping[str, Any]) -> Iterator[Batch]:
    """Yield pixels in the shapes that there are, with the tokens that stand for them; and none."""
    for name in ("pixel_values", "pixel_values_videos", "pixel_values_images"):
        if name not in takes:
            continue
        for pixels in _pixels(_part(model.config, "vision_config", "encoder", "backbone_config")):
            batch = {name: pixels}
            yield _with_image_tokens(model, batch) if "input_ids" in takes else batch
    if "image_grid_thw" in takes:
        yield _with_image_tokens(model, _patches(model.config))
    if "input_ids" in takes or not any("pixel_values" in name for name in takes):
        yield {}


def _pixels(config: Any) -> Iterator[torch.Tensor]:
    """Yield images, (rows, channels, height, width), and films, with frames before the channels."""
    channels = _number(config, "num_channels", "in_channels", default=3)
    frames = min(_number(config, "num_frames", default=FRAMES), 16)
    own = getattr(config, "image_size", None) or 32
    for size in dict.fromkeys((tuple(own) if isinstance(own, list) else own, 32, 64, 224)):
        height, width = size if isinstance(size, tuple) else (size, size)
        draw = torch.Generator().manual_seed(0)
        image = torch.randn(ROWS, channels, height, width, generator=draw)
        yield image
        yield image[:, None].expand(-1, frames, -1, -1, -1).contiguous()


def _patches(config: Any) -> Batch:
    """Return one image a row in patches, as Qwen's models read them: 4 by 4 of them."""
    vision = _part(config, "vision_config")
    count = _number(vision, "in_channels", "num_channels", default=3)
    count *= _number(vision, "temporal_patch_size", default=1)
    count *= _number(vision, "patch_size", default=8) ** 2
    grid = torch.tensor([[1, 4, 4]] * ROWS)
    return {"pixel_values": torch.randn(ROWS * 16, count), "image_grid_thw": grid}


def _with_image_tokens(model: Any, batch: Batch) -> Batch:
    """Add input ids with a token in the place of each vector that the model makes of the images."""
    token = _number(model.config, "image_token_id", "image_token_index", default=-1)
    count = _image_tokens(model, batch) // ROWS if token >= 0 else 0
    if not count:
        return batch
    ids = torch.full((ROWS, count + LENGTH), 3)
    ids[:, 1 : count + 1] = token
    added = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        added["mm_token_type_ids"] = torch.eq(ids, token).long()
    return batch | added


def _image_tokens(model: Any, batch: Batch) -> int:
    try:
        with torch.no_grad():
            made = model.get_image_features(**batch)
    except Exception:  # this shape of pixels is not the model's, or it has no such function
        return 0
    made = getattr(made, "pooler_output", made)
    parts = made if isinstance(made, list | tuple) else [made]
    return sum(part.numel() // part.shape[-1] for part in parts if isinstance(part, torch.Tensor))


def _heard(model: Any, takes: Mapping[str, Any]) -> Iterator[Batch]:
    """Yield sound in the shapes that there are: waves, or mel frames by bands or by time."""
    config = _part(model.config, "audio_config", "encoder_config", "encoder")
    names = ("num_mel_bins", "input_feat_per_channel", "feature_size", "n_mels")
    bands = _number(config, *names, default=80)
    times = [2 * getattr(config, "max_source_positions", 32), getattr(config, "max_length", 64), 64]
    for name in ("input_features", "input_values"):
        if name in takes:
            shapes = [(ROWS, bands, times[0]), (ROWS, times[1] or 64, bands), (ROWS, 64, 2 * bands)]
            waves = [(ROWS, 4000), (ROWS, 1, 4000), (ROWS, 1, 32, 32)]
            for shape in [*waves, *shapes] if name == "input_values" else [*shapes, *waves[:1]]:
                yield {name: torch.randn(*shape)}
    if model.main_input_name not in ("input_features", "input_values"):
        yield {}


def _number(config: Any, *names: str, default: int) -> int:
    """Return the first number of a config that is there under one of the names."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value), default)


def _part(config: Any, *names: str) -> Any:
    """Return the config of the part that reads images or sound, or the config itself."""
    return next((part for n in names if (part := getattr(config, n, None)) is not None), config)
