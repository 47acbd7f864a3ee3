"""Connections of the embedded Hub: those that keep it waiting go first when it has too many."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # that a request's head may take


class Connection(H11Protocol):
    """One HTTP/1.1 connection, without an access log: addresses of uploads are signed.

    A head that does not come in :data:`HEAD_SECONDS` ends it. From half of uvicorn's limit on, at
    which it answers 503, the one that has kept the server waiting longest is closed for each new
    one: half-sent requests cannot keep others out.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.access_log = False
        self._heard = 0.0  # when the client last sent anything
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection; make room for it where there is none."""
        self._heard = self.loop.time()
        limit = self.limit_concurrency
        if limit is not None and len(self.connections) >= limit // 2:
            waiting = [one for one in self.connections if one._keeps_waiting()]  # type: ignore[union-attr]
            if waiting:
                min(waiting, key=lambda one: one._heard)._close()  # type: ignore[union-attr]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._heard = self.loop.time()
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._alarm:
            self._alarm.cancel()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        """Set the alarm while a head is awaited: the first bytes do not postpone it."""
        if not self._awaits_head():
            if self._alarm:
                self._alarm.cancel()
            self._alarm = None
        elif self._alarm is None:
            self._alarm = self.loop.call_later(HEAD_SECONDS, self._end_slow_head)

    def _end_slow_head(self) -> None:
        self._alarm = None
        if self._awaits_head():
            self._close()

    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _keeps_waiting(self) -> bool:
        """Whether it is the client's turn: to send, or to take what is sent."""
        return self._awaits_head() or self.cycle.more_body or self.flow.write_paused

    def _close(self) -> None:
        self.connections.discard(self)
        self.transport.abort()
