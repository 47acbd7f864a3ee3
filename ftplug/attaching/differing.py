"""What a model carries that is not what it is to get, said with the way out."""

from __future__ import annotations

from ftplug.host import Host


def other_methods(mine: Host, other: Host, heads: tuple[bool, bool]) -> str:
    """Say what a model carries that is not what it is to get, and what its user can do."""
    if mine.names != other.names:
        both = ", ".join(repr(method.name) for method in (*mine.methods, *other.methods))
        return (
            f"the model already carries {mine.names}: to train {other.names} instead take that off "
            f"first (ftplug.detach gives the base back, ftplug.merge keeps what was learned), or "
            f"load a fresh base; to train both give them at once: {both}"
        )
    then, now = ([m.settings() for m in h.methods] for h in (mine, other))
    differing = [
        f"{name}={a[name]} there, {b[name]} asked for"
        for a, b in zip(then, now, strict=True)
        for name in a
        if a[name] != b[name]
    ]
    if heads[0] != heads[1]:
        differing.append(f"train_head={heads[0]} there, {heads[1]} asked for")
    return (
        f"the model already carries {mine.names} with other settings ({'; '.join(differing)}): "
        "take it off first (ftplug.detach, or ftplug.merge), or load a fresh base for these"
    )
