"""Bounds on time: how slowly an answer may come, and for how long it is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from ftplug.errors import RegistryError

PACE = 16 * 2**10  # bytes that come within the client's patience
_OF_WRITES = 30  # times the patience: a commit takes a server its time

_Key = tuple[str, str]  # method and address


class Pace:
    """Requests, and since when nothing came of each; an answer counts once it is read.

    Patience is twice ``HF_HUB_DOWNLOAD_TIMEOUT``, which is 10 seconds unless it is set.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._alarms: dict[_Key, threading.Timer] = {}
        self.forget()

    @property
    def patience(self) -> float:
        """Seconds within which something must come: by the client's own setting."""
        from huggingface_hub import constants

        return 2.0 * constants.HF_HUB_DOWNLOAD_TIMEOUT

    def forget(self) -> None:
        """Begin anew; alarms that are still set would close somebody else's session."""
        for alarm in list(self._alarms.values()):
            alarm.cancel()
        self._alarms = {}
        self._since: dict[_Key, float] = {}
        self._status: dict[_Key, int] = {}

    def asked(self, request: Any) -> None:
        """Note a request, with timeouts where it has none; refuse one that is asked in vain."""
        if request.method not in ("GET", "HEAD"):
            _bound(request, _OF_WRITES * self.patience)
            return
        key, now = _key(request), time.monotonic()
        if now - self._since.setdefault(key, now) > self.patience:
            raise self.stalled(request)
        _bound(request, self.patience)
        self._set_alarm(key)

    def answered(self, response: Any) -> None:
        """Note that the headers of an answer are here."""
        key = _key(response.request)
        if alarm := self._alarms.pop(key, None):
            alarm.cancel()
        self._status[key] = response.status_code
        if response.status_code == 429 or (response.status_code < 400 and key[0] == "HEAD"):
            self._since.pop(key, None)

    def moved(self, request: Any) -> None:
        """Note that enough of a body came."""
        self._since[_key(request)] = time.monotonic()

    def done(self, request: Any) -> None:
        """Note that the whole answer is here; one that says no keeps its time."""
        key = _key(request)
        if self._status.get(key, 200) < 400:
            self._since.pop(key, None)

    def stalled(self, request: Any) -> RegistryError:
        """Return the error of an answer that does not come."""
        if (status := self._status.get(_key(request))) is None:
            return RegistryError(
                f"{self._endpoint} cannot be reached, or does not answer in {self.patience:.0f} "
                "seconds: check the network and HF_ENDPOINT"
            )
        said = f" (its last answer: {status})" if status >= 400 else ""
        return RegistryError(
            f"{self._endpoint} sends less than {PACE} bytes in {self.patience:.0f} seconds{said}: "
            "try again, or let it be slower with HF_HUB_DOWNLOAD_TIMEOUT (seconds)"
        )

    def _set_alarm(self, key: _Key) -> None:
        """Close the session where headers drip: a timeout is of one piece of them alone."""
        from huggingface_hub import close_session

        if alarm := self._alarms.pop(key, None):
            alarm.cancel()
        alarm = self._alarms[key] = threading.Timer(1.25 * self.patience, close_session)
        alarm.daemon = True
        alarm.start()


def _key(request: Any) -> _Key:
    return request.method, str(request.url)


def _bound(request: Any, most: float) -> None:
    timeouts: Mapping[str, float | None] = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {
        kind: min(timeouts.get(kind) or most, most) for kind in ("connect", "read", "write")
    } | {"pool": timeouts.get("pool")}
