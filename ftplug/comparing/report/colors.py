"""The colours of a report, light and dark: each is a CSS variable, drawn as its light value.

Every one has a contrast of 4.5 : 1 or more to ``surface`` in both schemes (but ``grid`` and
``band``, which carry nothing), and the light ones differ, for a picture is recoloured by them.
"""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "surface": "#ffffff",
    "page": "#f4f5f7",
    "ink": "#1b1f24",
    "muted": "#575f6a",
    "grid": "#dfe3e8",
    "band": "#e6edf7",
    "link": "#0b57b0",
    "better": "#0a7048",
    "worse": "#b3261e",
    "equivalent": "#1d5bb8",
    "undecided": "#5b6169",
    "c0": "#2060c4",
    "c1": "#a9500d",
    "c2": "#0c7752",
    "c3": "#85318c",
    "c4": "#b02c48",
    "c5": "#616900",
    "c6": "#0b7084",
    "c7": "#6e4c2e",
}
DARK: Mapping[str, str] = {
    "surface": "#171a1f",
    "page": "#0f1114",
    "ink": "#e8eaed",
    "muted": "#a4acb7",
    "grid": "#333941",
    "band": "#232c3a",
    "link": "#8ab8ff",
    "better": "#54cf98",
    "worse": "#ff8a80",
    "equivalent": "#86b4ff",
    "undecided": "#b0b6be",
    "c0": "#74aaff",
    "c1": "#f2a662",
    "c2": "#52c99a",
    "c3": "#d592e4",
    "c4": "#ff879c",
    "c5": "#c6cd55",
    "c6": "#5cc8dd",
    "c7": "#d3ae8d",
}
SERIES = tuple(name for name in LIGHT if name[0] == "c" and name[1:].isdigit())
VERDICTS: Mapping[str, str] = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "not_decided": "undecided",
    "baseline": "ink",
    "failed": "worse",
}


def variables() -> str:
    """Return the CSS that names the colours of both schemes, and what pictures use of them."""
    light, dark = ("".join(f"--{n}:{v};" for n, v in one.items()) for one in (LIGHT, DARK))
    uses = "".join(f".f-{n}{{fill:var(--{n})}}.s-{n}{{stroke:var(--{n})}}" for n in LIGHT)
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{uses}\n"
    )
