"""Who may ask: requests with the token, for this host, and writes from this page only.

    app = Guard(app, Access(token, hosts={"127.0.0.1", "localhost"}))

The token comes once, in the address that the program prints; it moves to a cookie, and the browser
is sent to the address without it. A name in the header Host that is not ours is refused, so that a
page of others cannot reach this server under its own name (DNS rebinding).
"""

import dataclasses
import hmac
import ipaddress
import secrets
import urllib.parse

from starlette.datastructures import Headers, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" browsers would send no Origin with a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_READS = ("GET", "HEAD")


def new_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(24)


@dataclasses.dataclass(frozen=True)
class Access:
    """What requests must have.

    Attributes:
        token: str.
        hosts: names in the header Host that are ours; any port, since a tunnel may change it.
        any_address: whether any IP address is ours too; names are what DNS rebinding needs.
        cookie: name of the cookie; cookies of all ports of a host go to each of them.
    """

    token: str
    hosts: frozenset
    any_address: bool = False
    cookie: str = "dc_tf_browse"

    def is_ours(self, host: str) -> bool:
        """Whether a value of the header Host names this server."""
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and (name in self.hosts or self.any_address and _is_address(name))

    def knows(self, given: str | None) -> bool:
        """Whether it is the token, in constant time."""
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


class Guard:
    """ASGI middleware that refuses what may not ask, and adds `HEADERS` to every answer.

    Args:
        app: ASGI application.
        access: Access.
    """

    def __init__(self, app, access: Access):
        self._app = app
        self._access = access

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        answer = self._own_response(scope, Headers(scope=scope)) or self._app
        await answer(scope, receive, _with_headers(send))

    def _own_response(self, scope, headers):
        """A response in place of the application's, or None."""
        if not self._access.is_ours(headers.get("host", "")):
            return PlainTextResponse("This is not the address of this server.", 421)
        query = QueryParams(scope["query_string"])
        if scope["method"] in _READS and self._access.knows(query.get("token")):
            return self._moved_to_cookie(scope["path"], query)
        cookies = cookie_parser(headers.get("cookie", ""))
        if not self._access.knows(cookies.get(self._access.cookie)):
            text = "Open the address that dc_tf browse has printed; it has the token.\n"
            return PlainTextResponse(text, 403)
        if scope["method"] not in _READS and not _from_this_page(headers):
            return PlainTextResponse("Only pages of this server may change something.", 403)
        return None

    def _moved_to_cookie(self, path, query):
        rest = [(name, value) for name, value in query.multi_items() if name != "token"]
        path = urllib.parse.quote("/" + path.lstrip("/\\"))
        answer = RedirectResponse(f"{path}?{urllib.parse.urlencode(rest)}".rstrip("?"), 303)
        answer.set_cookie(self._access.cookie, self._access.token, httponly=True, samesite="lax")
        answer.headers["Cache-Control"] = "no-store"
        return answer


def _from_this_page(headers):
    """Whether a write comes from a page of the host that it is for; browsers always say."""
    origin = urllib.parse.urlsplit(headers.get("origin", ""))
    return origin.scheme in ("http", "https") and origin.netloc == headers["host"]


def _is_address(name):
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(send):
    async def send_with_headers(message):
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", []),
                *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
            ]
        await send(message)

    return send_with_headers
