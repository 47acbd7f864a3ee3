"""What the contract is told about the built-in methods.

``CONTRACTS`` holds settings that fit models of two layers and 32 features, and what does not fit; a
method that is not in it runs with its defaults. To keep the suite short, the rarer methods of peft
run on ``TWO`` families: an encoder with a head, and a decoder without. The first six run on five.
"""

from __future__ import annotations

from typing import Any

from runs import METHODS

from ftplug import discovery

TWO = ("bert", "llama")
EVERYWHERE = ("bert", "llama", "t5", "vit")

NO_BIAS = {"llama": "LlamaForCausalLM has no bias", "t5": "has no bias"}
NO_CACHE = {"vit": "takes no cache"}
NO_TOKENS = {"vit": "reads no token embeddings"}


def nowhere(reason: str) -> dict[str, Any]:
    """Return the contract of a method that can only say why it cannot be used."""
    return {"unfit": dict.fromkeys(EVERYWHERE, reason)}


CONTRACTS: dict[str, dict[str, Any]] = {
    # Ours
    "alora": {
        "settings": {"r": 4, "alora_invocation_tokens": (53,)},  # the batch has it, once
        "unfit": dict.fromkeys(("bert", "t5", "vit"), "need a decoder-only language model"),
        "mergeable": False,
    },
    "apollo": {"settings": {"rank": 4}},
    "bitfit": {"unfit": NO_BIAS},
    "bottleneck": {"settings": {"reduction_factor": 4}},
    "freeze": {"settings": {"layers": 1}},
    "galore": {"settings": {"rank": 4}},
    "lisa": {"settings": {"layers": 1, "period": 1}},
    "lora": {"settings": {"r": 4}},
    "lora-plus": {"beside": ("lora",)},
    "olora": {"settings": {"r": 4}},
    "pissa": {"settings": {"r": 4}},
    "prefix-tuning": {
        "settings": {"num_virtual_tokens": 4},
        "starts_at_base": False,
        "unfit": NO_CACHE,
    },
    "prompt-tuning": {
        "settings": {"num_virtual_tokens": 4},
        "starts_at_base": False,
        "unfit": NO_TOKENS,
    },
    "qlora": {"settings": {"r": 4}, "starts_at_base": False, "quantizes": True},
    # peft's
    "adalora": {"settings": {"total_step": 6, "init_r": 6, "target_r": 4}},
    "adaption-prompt": {"unfit": dict.fromkeys(("bert", "t5", "vit"), "peft has it for llama")},
    "beft": {"mergeable": ("bert", "vit")},
    "c3a": {"settings": {"block_size": 8}, "starts_at_base": False},
    "cartridge": {"starts_at_base": False, "unfit": NO_CACHE},
    "cpt": nowhere("its loss needs the type of every input token"),
    "fourierft": {"settings": {"n_frequency": 64}, "starts_at_base": False},
    "lily": {"mergeable": False},
    "miss": {"settings": {"r": 4}},
    "multitask-prompt-tuning": {"starts_at_base": False, "unfit": NO_TOKENS},
    "p-tuning": {"starts_at_base": False, "unfit": NO_TOKENS},
    "poly": {"mergeable": False},
    "psoft": {"settings": {"r": 4}},
    "road": {"settings": {"group_size": 4}},
    "shadow": nowhere("its state passes through peft's wrapper"),
    "shira": {"settings": {"r": 4}},
    "trainable-tokens": {
        "settings": {"token_indices": tuple(range(3, 40))},
        "unfit": {"vit": "reads no tokens"},
        "mergeable": ("bert", "llama"),
    },
    "unilora": {"starts_at_base": False},
    "vblora": {
        "settings": {"vector_length": 8, "num_vectors": 16},
        "starts_at_base": False,
    },
    "waveft": {"settings": {"n_frequency": 64}},
    "xlora": nowhere("it mixes LoRA adapters that are trained already"),
}


def built_in() -> list[str]:
    """Return the names of the methods this distribution offers, but for those that train nothing.

    The contract is about what trains. ``trunk-cache`` needs a method beside it, composes only with
    what leaves the lower layers frozen, and answers to rounding: its tests hold it to the rest.
    """
    offered = {n: e[0] for n, e in discovery.entries().items() if e[0].distribution == "ftplug"}
    return [name for name, entry in offered.items() if not entry.load().transient]


def contract(name: str) -> dict[str, Any]:
    """Return the contract of a built-in method."""
    found = {"method": name, **CONTRACTS.get(name, {})}
    [entry] = discovery.entries()[name]
    if ".peft_" in entry.value:
        return {"families": TWO, **found}
    return {"families": (*EVERYWHERE, "bert-token"), **found} if name in METHODS else found


def relying() -> list[str]:
    """Return the names of those, and ``trunk-cache``, that rely on the inside of a model."""
    names = (*built_in(), "trunk-cache")
    return [name for name in names if discovery.entries()[name][0].load().relies_on_internals]
