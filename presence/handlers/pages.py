"""The demo page and the browser client's files; `/` and `/dev/token` exist with --dev only."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from tornado.web import RequestHandler

from presence import codec
from presence.errors import Forbidden, NotFound
from presence.handlers.base import BaseHandler

HERE = Path(__file__).resolve().parent.parent
STATIC = next((path for path in (HERE / "static", HERE.parent / "static") if path.is_dir()), HERE / "static")
DEMO_TOKEN_S = 3600
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
        self.finish(path.read_bytes())

    head = get

    def compute_etag(self) -> str | None:
        return RequestHandler.compute_etag(self)


class DemoHandler(BaseHandler):
    """`GET /`: the demo page."""

    def get(self) -> None:
        self.set_header("Content-Type", KINDS[".html"])
        self.finish((STATIC / "index.html").read_bytes())


class DemoTokenHandler(BaseHandler):
    """`GET /dev/token?user=NAME`: a token for the demo page, to callers on this machine only."""

    def get(self) -> None:
        if not ip_address((self.request.remote_ip or "0.0.0.0").partition("%")[0]).is_loopback:
            raise Forbidden("demo tokens are given on this machine only")
        if any(name in self.request.headers for name in PROXY_MARKS):  # then the proxy is on this machine
            raise Forbidden("demo tokens are not given through a proxy")
        if self.request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise Forbidden("demo tokens are given to the demo page only")
        user = codec.name(self.query("user"), "user")
        grants = {"*": ["join", "see", "publish", "history"]}
        token = self.services.auth.make_token(user, grants, DEMO_TOKEN_S)
        self.write_json_text(codec.compact({"token": token}))
