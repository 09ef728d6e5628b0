"""The pages and the browser client's files; `/` and `/dev/…` exist with --dev only."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from tornado.web import RequestHandler

from presence import codec
from presence.errors import Forbidden, NotFound
from presence.handlers.api import page_text
from presence.handlers.base import BaseHandler

HERE = Path(__file__).resolve().parent.parent
STATIC = next((path for path in (HERE / "static", HERE.parent / "static") if path.is_dir()), HERE / "static")
DEMO_TOKEN_S = 3600
DEMO_MEMBERS = 200
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "worker-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)
PROXY_MARKS = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".png": "image/png",
}


class StaticHandler(BaseHandler):
    """`GET /static/…`: a file of the folder, never one outside it. Browsers ask each time whether it has changed."""

    def get(self, name: str) -> None:
        try:
            path = (STATIC / name).resolve()
            known = path.suffix in KINDS and path.is_relative_to(STATIC.resolve()) and path.is_file()
        except (OSError, ValueError):  # no name that a file could have: too long, or with a NUL
            known = False
        if not known:
            raise NotFound("there is no such file")
        self.set_header("Content-Type", KINDS[path.suffix])
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Access-Control-Allow-Origin", "*")  # or pages of allowed origins could not import the client
        self.finish(path.read_bytes())

    head = get

    def compute_etag(self) -> str | None:
        return RequestHandler.compute_etag(self)


class PageHandler(BaseHandler):
    """A page that loads nothing from elsewhere, runs nothing that is not a file of ours, and is in nobody's frame."""

    file = ""

    def get(self) -> None:
        self.set_header("Content-Type", KINDS[".html"])
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish((STATIC / self.file).read_bytes())

    head = get


class DemoHandler(PageHandler):
    """`GET /`: the demo page."""

    file = "index.html"


class ConsoleHandler(PageHandler):
    """`GET /console`: the console. It holds nothing secret: what it shows it asks for with the key of who looks."""

    file = "console.html"


class DevHandler(BaseHandler):
    """What the demo page asks for, given to this machine only, and not to pages of other sites."""

    def admit(self) -> None:
        if not ip_address((self.request.remote_ip or "0.0.0.0").partition("%")[0]).is_loopback:
            raise Forbidden("the demo is for this machine only")
        if any(name in self.request.headers for name in PROXY_MARKS):  # then the proxy is on this machine
            raise Forbidden("the demo is not for those who come through a proxy")
        if self.request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise Forbidden("this is given to the demo page only")


class DemoTokenHandler(DevHandler):
    """`GET /dev/token?user=NAME`: a token for the demo page."""

    def get(self) -> None:
        user = codec.name(self.query("user"), "user")
        grants = {"*": ["join", "see", "publish", "history"]}
        token = self.services.auth.make_token(user, grants, DEMO_TOKEN_S)
        self.write_json_text(codec.compact({"token": token}))


class DemoDeadlinesHandler(DevHandler):
    """`GET /dev/deadlines?channel=C`: when each member would go, for the demo page to show what nobody is told."""

    async def get(self) -> None:
        channel = codec.channel_name(self.query("channel"))
        page = await self.services.tracker.roster(channel, DEMO_MEMBERS, None, deadlines=True)
        settings = self.services.settings
        head: dict[str, object] = {
            "now": page.now,
            "grace_ms": settings.grace_ms,
            "ttl_ms": settings.ttl_ms,
            "ping_ms": settings.ping_ms,
        }
        self.write_json_text(page_text(head, "members", page.members))
