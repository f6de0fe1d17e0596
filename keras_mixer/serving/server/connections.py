"""Connections that wait for their client, but not for ever."""

import json
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol, h11

# Of the connections that may be open a quarter may wait, and a quarter be accepted at
# once. The others are requests under way and gRPC's.
MAX_WAITING = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4


class ImpatientProtocol(H11Protocol):
    """uvicorn's, with its `timeout_keep_alive` for clients that have begun, too.

    It ends the wait for the rest of a request, and for a client that takes no answer.
    Of too many that wait the oldest is closed: who asks finds the server, however many
    others only connect to it. A client that has begun to ask is told so, by 408. One
    that has not is told nothing: a browser, which connects ahead of time, would take it
    for the answer to what it asks next.
    """

    # Their timers, in the order in which they began to wait.
    _waiting: dict = {}  # noqa: RUF012

    def connection_made(self, transport):
        super().connection_made(transport)
        self._look()

    def data_received(self, data):
        if not self._has_begun():
            # The wait for a request does not count against the wait for its rest.
            self._stop_waiting()
        super().data_received(data)
        self._look()

    def on_response_complete(self):
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self._stop_waiting()

    def _look(self):
        is_asked = self.cycle is not None and not self.cycle.response_complete
        if is_asked and not self.cycle.more_body and not self.flow.write_paused:
            self._stop_waiting()
        elif self not in self._waiting:
            later = self.loop.call_later(self.timeout_keep_alive, self._give_up)
            self._waiting[self] = later
            if len(self._waiting) > MAX_WAITING:
                next(iter(self._waiting))._give_up()

    def _stop_waiting(self):
        if timer := self._waiting.pop(self, None):
            timer.cancel()

    def _has_begun(self):
        """Whether a part of a request is there."""
        return self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]

    def _give_up(self):
        self._stop_waiting()
        if self._has_begun() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": "The request did not come in time."}).encode()
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
            response = h11.Response(status_code=408, headers=[*headers.items()])
            for event in (response, h11.Data(body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.abort()
