"""What a model carries that is not what it is to get, said with the way out."""

from __future__ import annotations

from ftplug.host import Host


def other_methods(mine: Host, other: Host, heads: tuple[bool, bool]) -> str:
    """Say what a model carries that is not what it is to get, and what its user can do."""
    if mine.names != other.names:
        both = ", ".join(repr(method.name) for method in (*mine.methods, *other.methods))
        return (
            f"the model already carries {mine.names}: to train {other.names} instead load a fresh "
            f"base (or ftplug.merge this one first, where that can be); to train both give them at "
            f"once, to a fresh base: {both}"
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
        "load a fresh base for these, or ftplug.merge it first"
    )
