"""The methods that an artifact needs: configured from what it records, or said to be missing.

A manifest may be a stranger's: a package that it names is repeated as a claim, never as advice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import discovery
from ftplug.artifacts.entries import MethodEntry
from ftplug.artifacts.manifest import Manifest
from ftplug.artifacts.strangers.patterns import with_names
from ftplug.errors import ArtifactError, MethodError, MissingMethodError, PluginError, one_line

if TYPE_CHECKING:
    from ftplug.method import Method

_GREATEST = 3.4e38  # of float32
_WIDEST = 80  # characters of what a stranger wrote


def methods_of(manifest: Manifest, directory: Path) -> list[Method]:
    """Return the configured methods of an artifact; what trains nothing is left out.

    Imports their plugins. Raises :class:`MissingMethodError` where one is not installed or cannot
    be used, :class:`ArtifactError` for settings that the installed version does not take.
    """
    methods: list[Method] = []
    for entry in manifest.methods:
        if not discovery.is_offered(entry["name"]):
            raise MissingMethodError(f"{directory} needs {missing(entry)}")
        try:
            plugin = discovery.entry(entry["name"])
            if not (cls := plugin.load()).transient:
                method = cls.configure(entry["settings"])
                if resolved := entry.get("resolved"):
                    method = with_names(method, resolved, directory)
                methods.append(method)
        except PluginError as error:
            raise MissingMethodError(
                f"{directory} needs method {_quoted(entry['name'])}, which cannot be used here: "
                f"{error}; {_origin(entry)}"
            ) from error
        except MethodError as error:
            installed = f"{plugin.distribution} {plugin.version}"
            raise ArtifactError(
                f"{directory}: {error} (written by {_claimed(entry)}, as its manifest says; "
                f"installed is {installed})"
            ) from error
    if not methods:
        raise ArtifactError(f"{directory}: {manifest.method_names} trains nothing: no artifact")
    return methods


def check_scales(manifest: Manifest, directory: Path) -> None:
    """Refuse settings that are no numbers a model computes with: NaN, infinite, beyond float32."""
    for entry in manifest.methods:
        for name, value in entry["settings"].items():
            if not all(abs(number) <= _GREATEST for number in _numbers(value)):
                raise ArtifactError(
                    f"{directory}: {_quoted(entry['name'])}: setting {_quoted(name)} is NaN or "
                    "infinite: what was trained is lost; force=True loads it all the same"
                )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def not_installed(manifest: Manifest) -> Iterator[str]:
    """Yield what to say of each method that no installed package lists; imports no plugin."""
    for entry in manifest.methods:
        if not discovery.is_listed(entry["name"]):
            yield missing(entry)


def missing(entry: MethodEntry) -> str:
    """Return a method's name and where its plugin is from, as a clause of a message."""
    return f"method {_quoted(entry['name'])}, which is not installed here; {_origin(entry)}"


def _origin(entry: MethodEntry) -> str:
    if not entry["distribution"]:
        return "its manifest names no package for it"
    return (
        f"its manifest names the package {_claimed(entry)}, which is its publisher's claim: find "
        "out whose that package is before you install it"
    )


def _claimed(entry: MethodEntry) -> str:
    """Return who wrote an artifact, in quotes, for messages."""
    return _quoted(_named(entry) or "unknown")


def writer(entry: Mapping[str, Any]) -> str:
    """Return the package and version that wrote an artifact, as its manifest says; maybe nothing.

    What is no name and version of a package (PEP 508, PEP 440) is in quotes: it may read like the
    options of an installer.
    """
    return _named(entry) if _is_package(entry) else _quoted(_named(entry))


def _named(entry: Mapping[str, Any]) -> str:
    return " ".join(part for part in (entry.get("distribution"), entry.get("version")) if part)


def _is_package(entry: Mapping[str, Any]) -> bool:
    from packaging.requirements import InvalidRequirement, Requirement

    name = entry.get("distribution") or "none"
    try:
        asked = Requirement(f"{name}=={entry.get('version') or 0}")
    except InvalidRequirement:
        return False
    return asked.name == name and len(asked.specifier) == 1 and not asked.marker


def _quoted(text: str) -> str:
    """Return a stranger's text in quotes, on one line of plain characters and not too long."""
    short = one_line(text)
    return ascii(short if len(short) <= _WIDEST else f"{short[:_WIDEST]}…")
