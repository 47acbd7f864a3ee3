"""Addresses that a Hub's answers lead to: its own, huggingface.co's, or a stranger's."""

from __future__ import annotations

import re
from typing import Any

_OFFICIAL = ("huggingface.co", "hf.co")  # where a mirror may lead with the token
_FILE = re.compile(
    r"(?:/[^/]+/[^/]+/resolve|/api/resolve-cache/models/[^/]+/[^/]+)/([0-9a-f]{40})/(.+)"
)

Place = tuple[str, str]  # commit and name of a file


class Addresses:
    """What lies at an address; urls are those of the client's HTTP library."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._places: dict[str, Place] = {}  # the file behind an address that an answer named

    def note(self, url: Any, place: Place) -> None:
        """Keep which file an answer led to."""
        self._places[str(url)] = place

    def forget(self) -> None:
        """Forget where files lie; the next answer says it again."""
        self._places = {}

    def place(self, url: Any) -> Place | None:
        """Return commit and name of the file at an address, if one is there."""
        if known := self._places.get(str(url)):
            return known
        match = _FILE.fullmatch(self.path(url))
        return (match[1], match[2]) if match else None

    def path(self, url: Any) -> str:
        """Return the path below the endpoint's own, %-decoded."""
        return str(url.path).removeprefix(self._own(url).path.rstrip("/"))

    def is_trusted(self, url: Any) -> bool:
        """Whether the token may go there: same scheme, host and port, or the same by https."""
        own = self._own(url)
        if url.host in _OFFICIAL and url.scheme == "https" and url.port is None:
            return True
        upgraded = (own.scheme, url.scheme, own.port, url.port) == ("http", "https", None, None)
        same = (own.scheme, own.port) == (url.scheme, url.port)
        return bool(url.host == own.host and (same or upgraded))

    def is_plain(self, url: Any) -> bool:
        """Whether an address is neither https nor, where the endpoint is not either, http."""
        allowed = ("https",) if self._own(url).scheme == "https" else ("http", "https")
        return url.scheme not in allowed

    def _own(self, url: Any) -> Any:
        """Return the endpoint as the library of ``url`` has it."""
        return type(url)(self.endpoint)


def host(url: Any) -> str:
    """Return a host as an error names it."""
    return ascii(url.netloc.decode("ascii", "replace"))[1:-1][:100] or "nowhere"
