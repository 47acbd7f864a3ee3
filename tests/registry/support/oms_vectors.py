"""The test vectors of OpenSSF model signing: what has to be accepted, and what refused.

``python oms_vectors.py DIR`` judges those of the specification, where somebody has them: folders
``valid``, ``invalid`` and ``invalid-payload`` of bundles. Ours, made by ``vectors/make.py``, lie in
the same shape, with the model and the keys that verify them.
"""

import sys
from pathlib import Path

from ftplug_registry.signing.bundles import read_bundle, signed_digests
from ftplug_registry.signing.making import OMS

from ftplug.errors import RegistryError


def vectors(folder):
    """Yield ``(path, whether it is valid)`` of every bundle."""
    for path in sorted(Path(folder).rglob("*.json")):
        if path.parent.name in ("valid", "invalid", "invalid-payload"):
            yield path, path.parent.name == "valid"


def refusal(path):
    """Return why a bundle is refused; None for one that is well-formed."""
    try:
        signed_digests(read_bundle(path, OMS))
    except RegistryError as error:
        return str(error)
    return None


def main(folder):
    wrong = 0
    found = list(vectors(folder))
    for path, valid in found:
        why = refusal(path)
        right = valid == (why is None)
        wrong += not right
        where = path.relative_to(folder).as_posix()
        said = why.partition(": ")[2] if why else "accepted"
        print(f"{'as it should' if right else 'WRONG'}: {where}: {said}")
    print(f"{len(found) - wrong} of {len(found)} as they should")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
