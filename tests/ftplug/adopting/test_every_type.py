"""Every type of peft, saved by plain peft: adopted and equal, or refused by name."""

import peft
import pytest
import tiny
import torch
from ftplug_plugins.peft_family import family
from peft_twins import quiet

import ftplug
from ftplug.adopting.adopt import adopt

SETTINGS = {
    "ADALORA": {"init_r": 4, "target_r": 2, "total_step": 20, "tinit": 1, "tfinal": 2},
    "ADAMSS": {"r": 8, "num_subspaces": 2},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "C3A": {"block_size": 8},
    "CARTRIDGE": {"num_virtual_tokens": 4},
    "FOURIERFT": {"n_frequency": 20},
    "GRALORA": {"r": 4},
    "HIRA": {"r": 4},
    "LILY": {"r": 4},
    "LN_TUNING": {"target_modules": ["LayerNorm"]},
    "LORA": {"r": 4},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4},
    "OFT": {"oft_block_size": 8},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "PEANUT": {"r": 4},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PSOFT": {"r": 4},
    "PVERA": {"r": 8},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "SUPERTUNING": {"sparsity": 0.9},
    "TRAINABLE_TOKENS": {"token_indices": [3, 4, 5, 6, 7, 8]},
    "VBLORA": {"num_vectors": 16, "vector_length": 4},
    "VERA": {"r": 8},
    "WAVEFT": {"n_frequency": 20},
}
REFUSED = {
    "CPT": ("cpt", {"cpt_token_ids": [1], "cpt_mask": [1], "cpt_tokens_type_mask": [1]}),
}
ON_A_DECODER = {"ADAPTION_PROMPT", "BEFT", "CARTRIDGE", "PREFIX_TUNING", "CPT"}
OF_TASKS = {"MULTITASK_PROMPT_TUNING", "POLY"}
NOT_SAVED_ALONE = {"XLORA", "SHADOW"}  # its config names other adapters; a wrapper of peft's own
TYPES = sorted(
    {entry["type"] for entry in family.types().values()}
    | {"LORA", "PREFIX_TUNING", "PROMPT_TUNING"}
)


def test_these_are_more_than_forty_types():
    assert len(TYPES) >= 40
    assert set(SETTINGS) | set(REFUSED) <= set(TYPES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # peft's, of a missing CUDA compiler, biases, patterns
@pytest.mark.parametrize("kind", [t for t in TYPES if t not in NOT_SAVED_ALONE])
def test_it_is_adopted_and_equal_or_refused_by_name(kind, elsewhere, tmp_path):
    base = "llama" if kind in ON_A_DECODER else "bert"
    settings = REFUSED[kind][1] if kind in REFUSED else SETTINGS.get(kind, {})
    folder, to = elsewhere.saved(base, kind, **settings), tmp_path / "to"
    if kind in REFUSED:
        with pytest.raises(ftplug.ArtifactError, match=f"^{REFUSED[kind][0]} cannot be adopted"):
            adopt(folder, str(elsewhere.root / base), to=to)
        assert not to.exists()
        return
    done = adopt(folder, str(elsewhere.root / base), to=to)
    assert done.manifest.fingerprint is not None
    assert done.manifest.effect["nil"] is False
    answers_as_peft(done, kind, folder, elsewhere.base(base), elsewhere.base(base), to)


def answers_as_peft(done, kind, folder, base, another, to):
    """Compare on other inputs than those that adopting compared."""
    loaded = ftplug.load(base, to)
    theirs = quiet(peft.PeftModel.from_pretrained(another, folder).eval())
    batch = {n: v for n, v in tiny.inputs(base).items() if n != "labels"}
    assert done.compared.difference <= 1e-6
    with torch.no_grad():
        ours = loaded(**batch).logits
        if kind in OF_TASKS:
            batch["task_ids"] = torch.zeros(len(ours), dtype=torch.long)
        expected = theirs(**batch).logits
    if ours.dim() == 3:
        expected = expected[:, -ours.shape[1] :]
    assert torch.allclose(ours, expected, rtol=0, atol=1e-6)
