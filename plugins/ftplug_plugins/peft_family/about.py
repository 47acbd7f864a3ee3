"""Summary, paper and learning rates of peft's methods, which its sources do not give."""

from __future__ import annotations

from typing import NamedTuple

from ftplug import LearningRate


class About(NamedTuple):
    """One method: its summary, the link to its paper, a range of learning rates where known."""

    summary: str
    paper: str = ""
    learning_rate: LearningRate | None = None


_LORA = LearningRate(1e-4, 1e-3, 1e-2)  # the same two matrices, the same scale
_VECTORS = LearningRate(1e-3, 5e-3, 5e-2)  # few numbers, each of which moves a whole feature
_ARXIV = "https://arxiv.org/abs/"

ABOUT = {
    "adalora": About(
        "Train updates as singular values and vectors, and prune the least important ones.",
        f"{_ARXIV}2303.10512",
        _LORA,
    ),
    "adamss": About(
        "Train small updates in the clusters of directions that each weight's SVD falls into."
    ),
    "adaption-prompt": About(
        "Let the top attentions read trained prompts through a gate that starts at zero.",
        f"{_ARXIV}2303.16199",
    ),
    "beft": About("Train an added bias on the value projections alone.", f"{_ARXIV}2509.15974"),
    "boft": About(
        "Rotate each target's weight by a product of trained butterfly factors.",
        f"{_ARXIV}2311.06243",
    ),
    "c3a": About(
        "Add a trained block-circulant matrix to each target, multiplied by FFT.",
        f"{_ARXIV}2407.19342",
    ),
    "cartridge": About(
        "Train the keys and values of a prefix, of which the first tokens stay frozen.",
        f"{_ARXIV}2506.06266",
    ),
    "cpt": About(
        "Refine the embeddings of a context of examples, each kept near its start.",
        f"{_ARXIV}2410.17222",
    ),
    "deft": About(
        "Project a low-rank subspace out of each target's weight and inject a trained one.",
        f"{_ARXIV}2509.22793",
    ),
    "delora": About(
        "Train a normalised low-rank update and, apart from it, its strength.",
        f"{_ARXIV}2503.18225",
    ),
    "fourierft": About(
        "Train a few Fourier coefficients of each target's update.", f"{_ARXIV}2405.03003"
    ),
    "frod": About(
        "Train singular values and a sparse rotation in a basis that all layers share.",
        "https://doi.org/10.1609/aaai.v40i31.39813",
    ),
    "glora": About(
        "Scale and shift each target's weight and bias by trained terms of several shapes.",
        f"{_ARXIV}2306.07967",
    ),
    "gralora": About(
        "Train a low-rank update for each block of a grid over the target's weight.",
        f"{_ARXIV}2505.20355",
        _LORA,
    ),
    "hira": About(
        "Multiply each target's weight elementwise by a trained low-rank matrix.",
        "https://openreview.net/forum?id=TwJrTz9cRS",
    ),
    "hra": About(
        "Rotate each target's weight by trained Householder reflections.", f"{_ARXIV}2405.17484"
    ),
    "ia3": About(
        "Scale keys, values and feed-forward activations by trained vectors.",
        f"{_ARXIV}2205.05638",
        _VECTORS,
    ),
    "lily": About(
        "Share low-rank factors between layers and mix them by a trained router.",
        f"{_ARXIV}2407.09946",
    ),
    "ln-tuning": About("Train the layer norms alone.", f"{_ARXIV}2312.11420"),
    "loha": About(
        "Train an update that is the elementwise product of two low-rank matrices.",
        f"{_ARXIV}2108.06098",
        _LORA,
    ),
    "lokr": About(
        "Train an update that is a Kronecker product of small matrices.",
        f"{_ARXIV}2309.14859",
        _LORA,
    ),
    "miss": About(
        "Train one small matrix that is repeated over the shards of each target's weight.",
        f"{_ARXIV}2409.15371",
    ),
    "multitask-prompt-tuning": About(
        "Train vectors before the input that tasks share, scaled for each by a low-rank matrix.",
        f"{_ARXIV}2303.02861",
        LearningRate(3e-3, 1e-1, 5e-1),
    ),
    "oft": About(
        "Rotate each target's weight by a trained block-diagonal orthogonal matrix.",
        f"{_ARXIV}2306.07280",
    ),
    "osf": About(
        "Train the small singular directions of each weight, orthogonally to the large ones.",
        f"{_ARXIV}2504.07097",
    ),
    "p-tuning": About(
        "Read virtual tokens before the input that a small trained network computes.",
        f"{_ARXIV}2103.10385",
        LearningRate(1e-4, 1e-3, 1e-1),
    ),
    "peanut": About(
        "Compute each target's update from its weight by a small trained network.",
        f"{_ARXIV}2410.01870",
    ),
    "poly": About(
        "Train several low-rank updates and, for each task, how to mix them.",
        f"{_ARXIV}2202.13914",
        _LORA,
    ),
    "psoft": About(
        "Rotate the principal subspace of each target's weight.",
        "https://openreview.net/forum?id=FSHrinMArK",
    ),
    "pvera": About(
        "Train the distribution of VeRA's scaling vectors and sample from it.",
        f"{_ARXIV}2512.07703",
    ),
    "randlora": About(
        "Scale a sum of frozen random low-rank matrices to an update of full rank.",
        f"{_ARXIV}2502.00987",
    ),
    "road": About("Rotate and scale pairs of each target's outputs.", f"{_ARXIV}2409.00119"),
    "shadow": About(
        "Run a small trained network beside a decoder and feed its state into every block.",
        f"{_ARXIV}2604.19254",
    ),
    "shira": About(
        "Train a sparse, fixed selection of each target's weights.", f"{_ARXIV}2406.13175"
    ),
    "supertuning": About(
        "Train the few largest weights of each target.", f"{_ARXIV}2607.09287"
    ),
    "tinylora": About(
        "Train a vector of a few numbers, projected onto each target's singular directions.",
        f"{_ARXIV}2602.04118",
    ),
    "trainable-tokens": About("Train the embeddings of chosen tokens and nothing else."),
    "unilora": About(
        "Train one vector from which all low-rank matrices are filled.", f"{_ARXIV}2506.00799"
    ),
    "vblora": About(
        "Compose all low-rank matrices of vectors from one trained bank.", f"{_ARXIV}2405.15179"
    ),
    "vera": About(
        "Scale frozen random low-rank matrices, shared by all layers, with trained vectors.",
        f"{_ARXIV}2310.11454",
        _VECTORS,
    ),
    "waveft": About(
        "Train a few wavelet coefficients of each target's update.", f"{_ARXIV}2505.12532"
    ),
    "xlora": About(
        "Mix several trained LoRA adapters by a trained gate.", f"{_ARXIV}2402.07148"
    ),
}  # fmt: skip
