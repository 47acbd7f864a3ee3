"""Pixels and sound in the shapes that models read, and the tokens for them in a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ftplug.effect.pieces import Drawn

if TYPE_CHECKING:
    from torch import Tensor

_PIXELS = (
    "pixel_values", "pixel_values_videos", "pixel_values_images", "image_pixel_values",
    "flattened_patches",
)  # fmt: skip
_IMAGE_TOKENS = ("image_token_id", "image_token_index", "image_patch_id", "video_token_id")
_AUDIO_TOKENS = ("audio_token_id", "audio_token_index")
_MOST = 2**22  # numbers of one input


@dataclass(frozen=True)
class Sense:
    """What an input has beside its text: shapes to draw in and whole numbers, by argument.

    ``placeholder`` is the token that a text has ``count`` times in the place of what the model
    makes of it; -1 where it has none. With ``columns`` what is drawn are patches with their places
    (:class:`ftplug.effect.pieces.Drawn`).
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    placeholder: int = -1
    count: int = 0
    columns: int = 0


def sights(model: Any, takes: Mapping[str, Any]) -> Iterator[Sense]:
    """Yield pixels as a model may read them, likeliest first, then none where it may do without."""
    config = model.config
    vision = _part(config, "vision_config", "encoder", "backbone_config")
    for name in _PIXELS:
        if name in takes:
            for found in _pixels(name, config, vision, takes):
                if all(_size(shape) <= _MOST for shape in found.shapes.values()):
                    yield from _with_placeholders(
                        model, takes, found, _IMAGE_TOKENS, "get_image_features"
                    )
    if "input_ids" in takes or not any("pixel_values" in name for name in takes):
        yield Sense()


def _pixels(name: str, config: Any, vision: Any, takes: Mapping[str, Any]) -> Iterator[Sense]:
    channels = _number(vision, "num_channels", "in_channels", "in_chans", default=3)
    patch = _number(vision, "patch_size", default=8)
    if name == "flattened_patches":  # a row, a column and the numbers of each
        width = _number(vision, "patch_embed_hidden_size", default=channels * patch**2)
        yield Sense({name: (1, 16, 2 + width)}, columns=4)
        return
    if "image_grid_thw" in takes:
        yield from _grid(vision, channels, patch)
    if "spatial_shapes" in takes:
        yield _flat_patches(channels * patch**2)
    if "image_position_ids" in takes:
        yield _placed_patches(
            channels * patch**2, _number(vision, "pooling_kernel_size", default=1)
        )
    for height, width in _sizes(vision):
        image = (1, channels, height, width)
        yield from _in_tiles(name, image, config, vision, takes)
        yield Sense({name: image}, _sizes_told(takes, height, width))
        for frames in dict.fromkeys((1, min(_number(vision, "num_frames", default=2), 16))):
            film = (1, frames, channels, height, width)
            yield Sense({name: film}, _sizes_told(takes, height, width))


def _sizes(vision: Any) -> Iterator[tuple[int, int]]:
    own = getattr(vision, "image_size", None) or getattr(vision, "img_size", None) or 32
    if isinstance(own, Mapping):
        own = (own.get("height", 32), own.get("width", 32))
    if isinstance(own, list | tuple):
        own = (own[0], own[-1])
    for size in dict.fromkeys((own, 32, 64, 224)):
        yield size if isinstance(size, tuple) else (size, size)


def _sizes_told(takes: Mapping[str, Any], height: int, width: int) -> dict[str, Tensor]:
    import torch

    return {"image_sizes": torch.tensor([[height, width]])} if "image_sizes" in takes else {}


def _in_tiles(
    name: str, image: tuple[int, ...], config: Any, vision: Any, takes: Mapping[str, Any]
) -> Iterator[Sense]:
    """Yield an image that is cut into tiles, (rows, tiles, channels, height, width)."""
    import torch

    if name == "image_pixel_values":
        yield _whole_and_one_tile(image, vision)
    elif "aspect_ratio_ids" in takes:  # (rows, images, tiles, channels, height, width)
        tiles = _number(vision, "max_num_tiles", default=4)
        mask = torch.zeros(1, 1, tiles, dtype=torch.long)
        mask[..., 0] = 1
        ids = torch.ones(1, 1, dtype=torch.long)
        stored = {"aspect_ratio_ids": ids, "aspect_ratio_mask": mask}
        yield Sense({name: (1, 1, tiles, *image[1:])}, stored)
    elif "image_sizes" in takes:
        yield Sense({name: image})
        for tiles in dict.fromkeys([*_tiles(config, *image[2:]), 2, 3, 5]):
            yield Sense({name: (1, tiles, *image[1:])}, _sizes_told(takes, *image[2:]))


def _whole_and_one_tile(image: tuple[int, ...], vision: Any) -> Sense:
    """Return an image as Phi-4 reads it: whole, and again as its only tile, with a mask of patches.

    Of four patches it makes one vector, and one more ends each row and divides the two.
    """
    import torch

    side = image[-1] // _number(vision, "patch_size", default=8)
    pooled = -(-side // 2)
    tile = _number(vision, "crop_size", default=image[-1])
    stored = {
        "image_sizes": torch.tensor([[tile, tile]]),
        "image_attention_mask": torch.ones(1, 2, side, side, dtype=torch.long),
    }
    count = 2 * pooled * (pooled + 1) + 1
    return Sense({"image_pixel_values": (1, 2, *image[1:])}, stored, count=count)


def _tiles(config: Any, height: int, width: int) -> Iterator[int]:
    """Yield into how many tiles LLaVA-NeXT and its kin cut an image, the whole among them."""
    from transformers.image_processing_utils import select_best_resolution

    if points := getattr(config, "image_grid_pinpoints", None):
        rows, columns = select_best_resolution((height, width), points)
        yield 1 + -(-rows // height) * -(-columns // width)


def _grid(vision: Any, channels: int, patch: int) -> Iterator[Sense]:
    """Yield one image in patches, flat as Qwen's models read them, and square."""
    import torch

    width = channels * patch**2 * _number(vision, "temporal_patch_size", default=1)
    side = 2 * _number(vision, "spatial_merge_size", default=2)
    grid = torch.tensor([[1, side, side]])
    for shape in ((side * side, width), (side * side, channels, patch, patch)):
        yield Sense({"pixel_values": shape}, {"image_grid_thw": grid})


def _flat_patches(width: int) -> Sense:
    """Return one image of 4 by 4 flat patches, as SigLIP 2 reads them."""
    import torch

    mask, shape = torch.ones(1, 16, dtype=torch.long), torch.tensor([[4, 4]])
    stored = {"pixel_attention_mask": mask, "spatial_shapes": shape}
    return Sense({"pixel_values": (1, 16, width)}, stored)


def _placed_patches(width: int, pooled: int) -> Sense:
    """Return one image of flat patches and the place of each, as Gemma 4 reads them."""
    import torch

    side = 2 * pooled
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))[None]
    return Sense({"pixel_values": (1, side * side, width)}, {"image_position_ids": places})


def sounds(model: Any, takes: Mapping[str, Any]) -> Iterator[Sense]:
    """Yield sound as a model may read it: waves, or mel frames by bands or by time; or nothing."""
    config = _part(model.config, "audio_config", "encoder_config", "encoder")
    for name in ("input_features", "input_values", "audio_input_features"):
        if name in takes:
            for shape in _sound_shapes(name, config):
                masks = _heard_whole(takes, shape)
                for stored in (masks, {}) if masks else ({},):
                    found = _in_vectors(takes, config, Sense({name: shape}, stored))
                    yield from _with_placeholders(
                        model, takes, found, _AUDIO_TOKENS, "get_audio_features"
                    )
    if model.main_input_name not in ("input_features", "input_values"):
        yield Sense()


def _in_vectors(takes: Mapping[str, Any], config: Any, sound: Sense) -> Sense:
    """Tell into how many vectors a sound is read, where a forward asks, as Phi-4 does."""
    import torch

    (shape,) = sound.shapes.values()
    if "audio_embed_sizes" not in takes or len(shape) != 3:
        return sound
    count = -(-shape[1] // _number(config, "time_reduction", default=8))
    sizes = {"audio_embed_sizes": torch.tensor([count])}
    return replace(sound, stored={**sound.stored, **sizes}, count=count)


def _sound_shapes(name: str, config: Any) -> Iterator[tuple[int, ...]]:
    names = (
        "num_mel_bins",
        "input_feat_per_channel",
        "feature_size",
        "n_mels",
        "input_dim",
        "input_size",
    )
    bands = _number(config, *names, default=80)
    stacked = _number(config, "feature_projection_input_dim", default=2 * bands)
    longest = 2 * (getattr(config, "max_source_positions", None) or 32)
    frames = _number(config, "max_length", default=64)
    mel = [(1, bands, longest), (1, frames, bands), (1, 64, stacked), (1, bands, 64)]
    waves = [(1, 4000), (1, 1, 4000), (1, 1, 32, 32)]
    if name == "audio_input_features":
        yield (1, frames, bands)
    elif name == "input_values":
        yield from [*waves, *mel]
    else:
        yield from [*mel, *waves[:1]]


def _heard_whole(takes: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return masks that say that all of a sound counts, for arguments that a forward has."""
    import torch

    frames = shape[-1] if len(shape) < 3 or shape[1] < shape[2] else shape[1]
    names = ("feature_attention_mask", "input_features_mask", "audio_attention_mask")
    return {name: torch.ones(1, frames, dtype=torch.long) for name in names if name in takes}


def _with_placeholders(
    model: Any, takes: Mapping[str, Any], found: Sense, names: tuple[str, ...], reader: str
) -> Iterator[Sense]:
    """Count the vectors that a model makes of it, where a token of its text stands for each.

    Or one token that the model itself spreads out; or any that a mask names, as Kosmos reads them.
    """
    parts = (getattr(model.config, part, None) for part in ("vision_config", "audio_config"))
    configs = (model.config, *parts)
    ids = (getattr(config, name, None) for config in configs for name in names)
    token = next((each for each in ids if isinstance(each, int)), -1)
    if token < 0 and "image_embeds_position_mask" in takes:
        token = getattr(model.config.get_text_config(), "bos_token_id", None) or 0
    if token < 0:
        yield replace(found, count=0)
        return
    if found.count:
        counts = [found.count]
    elif read := getattr(model, reader, None):
        counts = [_vectors(model, read, found)]
    elif read := getattr(model.base_model, reader, None):  # which is the model's way, or not
        counts = [_vectors(model, read, found) or 1, 1]
    else:
        counts = [1]
    for count in dict.fromkeys(counts):
        yield replace(found, placeholder=token, count=count)


def _vectors(model: Any, read: Callable[..., Any], found: Sense) -> int:
    import inspect

    import torch

    drawn = {
        n: Drawn.of(0, s, found.columns).values().to(model.dtype) for n, s in found.shapes.items()
    }
    takes = inspect.signature(read).parameters
    anything = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes.values())
    everything = {n: v.to(model.device) for n, v in (drawn | dict(found.stored)).items()}
    given = {n: v for n, v in everything.items() if n in takes or anything}
    try:
        made = read(**given)
    except Exception:  # these shapes are not the model's
        return 0
    made = getattr(made, "pooler_output", made)
    parts = made if isinstance(made, list | tuple) else [made]
    return sum(part.numel() // part.shape[-1] for part in parts if isinstance(part, torch.Tensor))


def _size(shape: tuple[int, ...]) -> int:
    import math

    return math.prod(shape)


def _number(config: Any, *names: str, default: int) -> int:
    """Return the first number of a config that is there under one of the names."""
    values = (getattr(config, name, None) for name in names)
    return next(
        (v for v in values if isinstance(v, int) and v and not isinstance(v, bool)), default
    )


def _part(config: Any, *names: str) -> Any:
    """Return the config of the part that reads images or sound, or the config itself."""
    return next((part for n in names if (part := getattr(config, n, None)) is not None), config)
