"""Refuse a request body over a limit as soon as it is known to be too long, announced or not.

FastAPI's `max_body_size` counts the same bytes, but answers a body of announced length in plain text, after the app's
own error handlers: a client would get neither our code nor a request id. This one raises where the app reads the body.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware. It stands inside those that read the request in a task group, which would wrap its error."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; reading a body that is too long raises a 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        received_bytes = 0

        async def receive_within_limit() -> Message:
            nonlocal received_bytes
            if announced.isdecimal() and int(announced) > self._most_bytes:
                raise HTTPException(413)
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._most_bytes:
                raise HTTPException(413)
            return message

        await self._app(scope, receive_within_limit, send)
