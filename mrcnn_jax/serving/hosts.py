"""Refuses requests that other web sites send through a browser, and adds headers that keep answers from them."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


def is_address(host: str) -> bool:
    """Returns whether the host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_of_other_site(headers: Headers) -> bool:
    """Returns whether a browser sends the request for a page that this server did not serve.

    Browsers add Origin to every POST, and Sec-Fetch-Site where the connection is encrypted or local. Other clients send
    neither.
    """
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":
        return False
    return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


class HostGuard:
    """ASGI middleware that answers only requests to localhost, to an IP address or to one of the allowed names.

    A site whose name resolves to this machine (DNS rebinding) cannot read answers, since its requests contain its name
    in the Host header. POST requests of pages of other sites are refused, too.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        self._app = app
        self._allowed = {"localhost", *(host_name(host) for host in allowed_hosts)}

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
        host = host_name(headers.get("host", ""))
        app = self._app
        if host not in self._allowed and not is_address(host):
            message = "The server does not answer to this host name. Start it with --allowed-hosts NAME to allow it."
            app = JSONResponse({"error": message}, status_code=421)
        elif scope["method"] == "POST" and is_of_other_site(headers):
            app = JSONResponse({"error": "Requests of other web sites are refused."}, status_code=403)
        await app(scope, receive, send_guarded)
