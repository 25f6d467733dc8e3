"""Refuses requests that other web sites send through a browser, and adds headers that keep answers from them."""

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def host_name(header: str) -> str:
    """Returns the lower-case name or address of a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()


class HostGuard:
    """ASGI middleware that answers only requests to one of the allowed hosts; an empty collection allows all.

    A site whose name resolves to 127.0.0.1 (DNS rebinding) cannot read answers, since its requests carry its own name
    in the Host header. Requests of pages of other sites are refused, too.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        self._app = app
        self._allowed = frozenset(host_name(host) for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        app = self._app
        if self._allowed and host_name(headers.get("host", "")) not in self._allowed:
            app = JSONResponse({"error": "This host name is not allowed. See --allowed-hosts."}, status_code=421)
        elif scope["method"] == "POST" and headers.get("sec-fetch-site") == "cross-site":
            app = JSONResponse({"error": "Requests of other web sites are refused."}, status_code=403)
        await app(scope, receive, send_guarded)
