"""A key is followed by another: a statement that the old one signs, and that travels with the new.

It lies beside the new key as ``KEY.rotation`` and goes into ``ftplug_provenance.sig`` of all
that is signed with it: a list, by which the first key of several leads to the last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftplug.errors import RegistryError
from ftplug.files.staged import replace_file
from ftplug_registry.signing.bundles import (
    LARGEST,
    STATEMENT,
    bounded_json,
    key_bundle,
    parse_bundle,
    pre_authentication,
)
from ftplug_registry.signing.keys import PublicKey, checked, public_key, read_bounded

ROTATION = "pkg:pypi/ftplug#key-rotation/v1"
MOST = 16


def rotations_of(key: Path) -> list[Any]:
    """Return the statements beside a private key, the earliest first."""
    path = _beside(key)
    if not path.is_file():
        return []
    found = bounded_json(read_bounded(path, LARGEST), path)
    if not isinstance(found, list) or len(found) > MOST:
        raise RegistryError(f"{path}: not a list of at most {MOST} statements")
    return found


def rotate(old: Path, private: Any, new: Path, public: PublicKey) -> None:
    """Let the old key say that the new one follows it; written beside the new one."""
    before = rotations_of(old)
    if len(before) >= MOST:
        raise RegistryError(f"{old}: {MOST} keys came before it: begin anew (ftplug trust)")
    signer = checked(private.public_key(), old)
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": "key", "digest": {"sha256": public.fingerprint}}],
        "predicateType": ROTATION,
        "predicate": {"newKey": public.pem, "oldKey": signer.pem},
    }
    said = json.loads(key_bundle(statement, private, signer))
    content = json.dumps([*before, said], indent=1) + "\n"
    replace_file(_beside(new), content.encode("utf-8"))


def leads(rotations: Sequence[Any], pinned: PublicKey, to: str, where: Path | str) -> bool:
    """Whether statements lead from one key to that of a fingerprint, each signed by the last."""
    holder = pinned
    for one in rotations[:MOST] if isinstance(rotations, list) else ():
        said = parse_bundle(json.dumps(one).encode("utf-8"), ROTATION, where)
        if said.hint != holder.fingerprint:
            continue  # an older one than what is pinned here
        if not holder.verify(said.signature, pre_authentication(said.payload)):
            raise RegistryError(f"{where}: its statement on a new key is not signed by the old one")
        follower = public_key(str(said.predicate.get("newKey")).encode("utf-8"), where)
        if follower.fingerprint != said.root_digest:
            raise RegistryError(f"{where}: its statement on a new key names two")
        holder = follower
    return holder.fingerprint == to


def _beside(key: Path) -> Path:
    return key.with_name(f"{key.name}.rotation")
