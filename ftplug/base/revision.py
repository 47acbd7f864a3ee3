"""The commit of a Hub repository that a model's weights came from.

transformers 5 no longer keeps the commit on the config. The cached snapshots do: the one whose
files hold the model's own values is the revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ftplug.base.fingerprint import Sampled, sample

_COMPARED = 4  # tensors, spread over the model: as many as tell two trainings apart


def cached_revision(repo_id: str, tensors: Mapping[str, Sampled]) -> str | None:
    """Return the commit sha of the cached snapshot that holds these base tensors, or None.

    Where several do, their weights are the same and the newest is as good as any.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repo_id, repo_type="model")
    snapshots = Path(constants.HF_HUB_CACHE, folder, "snapshots")
    matching = [path for path in snapshots.glob("*") if _holds(path, tensors)]
    return max(matching, key=lambda path: path.stat().st_mtime).name if matching else None


def _holds(snapshot: Path, tensors: Mapping[str, Sampled]) -> bool:
    """Whether the snapshot's safetensors have some of the tensors, and all of these are equal."""
    from safetensors import SafetensorError, safe_open

    compared = 0
    for path in sorted(snapshot.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                stored = list(file.keys())
                for name in stored[:: max(1, len(stored) // _COMPARED)]:
                    mine = next(
                        (t for n, t in tensors.items() if f".{n}".endswith(f".{name}")), None
                    )
                    if mine is None or list(mine.shape) != file.get_slice(name).get_shape():
                        continue
                    theirs = file.get_tensor(name).to(mine.dtype)
                    if not sample(theirs).equal(mine.values):
                        return False
                    compared += 1
        except (OSError, SafetensorError):
            return False
    return compared > 0
