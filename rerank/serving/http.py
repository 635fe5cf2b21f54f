"""HTTP as uvicorn speaks it, but for the answer to what is no HTTP."""

from __future__ import annotations

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from dipair_index.rerank.serving.errors import ApiError, error_response

_BROKEN = ApiError(
    400, "the request is not valid HTTP/1.1: send it with a client of HTTP, and to an address that "
    "begins with http://", code="invalid_http", headers={"Connection": "close"},
)  # fmt: skip


class Protocol(H11Protocol):
    """Answers broken requests with the body that all errors have."""

    def send_400_response(self, msg: str) -> None:
        """Answers a request that cannot be read, and closes the connection."""
        answer = error_response(_BROKEN)
        head = h11.Response(status_code=answer.status_code, headers=answer.raw_headers)
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
