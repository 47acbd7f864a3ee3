"""Names that nothing has: the nearest that there are, and what other libraries' names are here."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

# Of one concept each, first as most methods here call it; then as other libraries do.
_CONCEPTS = (
    ("r", "rank", "low_rank_dimension", "lora_r", "lora_rank", "lora_dim", "network_dim", "dim"),
    ("lora_alpha", "alpha", "network_alpha"),
    ("lora_dropout", "dropout", "adapter_dropout"),
    ("target_modules", "target_layers", "lora_target_modules", "lora_target", "modules", "targets"),
    ("exclude_modules", "ignore_modules", "excluded_modules"),
    ("layers", "num_layers", "n_layers", "unfrozen_layers", "num_unfrozen_layers"),
    ("num_virtual_tokens", "prompt_length", "prefix_length", "num_prompt_tokens", "prompt_tokens"),
    ("non_linearity", "nonlinearity", "activation", "act_fn"),
    ("update_proj_gap", "galore_update_interval", "proj_gap"),
    ("use_dora", "dora"),
    ("use_rslora", "rslora"),
    ("bits", "quantization_bit", "nbits"),
    ("quant_type", "bnb_4bit_quant_type"),
    ("double_quant", "bnb_4bit_use_double_quant"),
)
# What is no setting of a method here.
_ELSEWHERE = {
    "modules_to_save": "the task head trains with every method (train_head=)",
    "task_type": "it is read from the model",
    "learning_rate": "lr= (--lr) sets the rate",
    "inference_mode": "ftplug.load gives a model to answer with",
}


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the names most like one, at most ``count``, the nearest first."""
    spelt = {one.lower().replace("_", "-"): one for one in known}
    asked = name.lower().replace("_", "-")
    return [spelt[one] for one in difflib.get_close_matches(asked, spelt, n=count, cutoff=0.5)]


def either(names: Collection[str]) -> str:
    """Return names as a question's end: ``'lora', 'loha' or 'dora'``."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last


def setting_meant(name: str, known: Collection[str]) -> str:
    """Return what to say to a setting that a method lacks, of those that it has.

    Another library's name is answered with ours, where the method has that very concept.
    """
    asked = name.lower().replace("-", "_")
    if asked in _ELSEWHERE:
        return f": {_ELSEWHERE[asked]}"
    same = [ours for names in _CONCEPTS if asked in names for ours in names if ours in known]
    # peft calls some after their method: boft_dropout, psoft_alpha.
    after_the_method = [ours for ours in known if ours.endswith(f"_{asked}")]
    if same or len(after_the_method) == 1:
        return f": here it is {(same or after_the_method)[0]!r}"
    near = nearest(name, known)
    return f"; did you mean {either(near)}?" if near else ""
