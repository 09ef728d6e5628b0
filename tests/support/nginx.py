"""nginx as it stands in nginx/, on free ports and in a folder of the test's own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from tests.support.documents import ROOT
from tests.support.node import Node
from tests.support.ports import free_ports
from tests.support.programs import need_program
from tests.support.waiting import wait_until

CONFIGURATION = ROOT / "nginx"
OUTSIDE, INSIDE, TLS = 8080, 8090, 443
_NODE = re.compile(r"^ *server 127\.0\.0\.1:\d+ (.*)$\n", re.MULTILINE)


@dataclass(frozen=True)
class Door:
    """One of nginx's addresses: what test clients take for a node, of which they only need the addresses."""

    url: str
    name: str = "nginx"
    running: bool = True

    @property
    def ws_url(self) -> str:
        """The address for WebSockets."""
        return self.url.replace("http", "ws", 1)


class Nginx:
    """A running nginx whose configuration differs from the repository's in nothing but nodes, ports and paths, and in
    the texts that `changes` replaces: every one of them must be there."""

    def __init__(
        self,
        folder: Path,
        nodes: Iterable[str],
        changes: Mapping[str, str] | None = None,
        certificates: Path | None = None,
    ) -> None:
        """`nodes` are the nodes' URLs; with a folder of certificates (server.crt, server.key) tls.conf is used, too."""
        self.folder = folder
        self.nodes: list[Node] = []
        shutil.copytree(CONFIGURATION, folder)
        ports = dict(zip((OUTSIDE, INSIDE, TLS), free_ports(3), strict=True))
        self._adapt(ports, [urlsplit(url).netloc for url in nodes], certificates)
        for given, own in (changes or {}).items():
            self.change(given, own)
        self.outside, self.inside = (cast(Node, Door(f"http://127.0.0.1:{ports[door]}")) for door in (OUTSIDE, INSIDE))
        self.tls_url = f"https://127.0.0.1:{ports[TLS]}"
        self._errors = folder / "stderr"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen([*self._command(), "-g", self._globals()], stderr=errors)
        wait_until(lambda: self._serves(ports[OUTSIDE]), "nginx to serve", 10)

    @property
    def url(self) -> str:
        """The address where clients come in."""
        return self.outside.url

    @property
    def address(self) -> tuple[str, int]:
        """The same as host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def log(self) -> list[str]:
        """What it has noted of the clients' requests, a line each."""
        return (self.folder / "presence.log").read_text().splitlines()

    def asked(self, path: str) -> list[list[str]]:
        """The nodes that each request for this path was given to, in the order of the log."""
        lines = [line for line in self.log() if f' {path}" ' in line]
        return [re.findall(r"[\d.]+:\d+", line.rpartition("node=")[2]) for line in lines]

    def written(self) -> str:
        """Everything that stands in any of its files."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return "\n".join(path.read_text("utf-8", errors="replace") for path in files)

    def workers(self) -> set[int]:
        """The processes that serve."""
        pid = self.process.pid
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def change(self, given: str, own: str) -> None:
        """Replace a text that must be in the configuration; it counts from the next `reload`."""
        texts = {path: path.read_text("utf-8") for path in self.folder.glob("*.conf")}
        assert any(given in text for text in texts.values()), f"nowhere in the configuration: {given}"
        for path, text in texts.items():
            path.write_text(text.replace(given, own))

    def reload(self) -> None:
        """Read the configuration again, as `nginx -s reload` does, and wait for the new workers."""
        before = self.workers()
        subprocess.run([*self._command(), "-g", f"pid {self.folder}/pid;", "-s", "reload"], check=True)
        wait_until(lambda: self.workers() - before, "new workers", 10)

    def stop(self) -> None:
        """End it, workers included."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)

    def _adapt(self, ports: Mapping[int, int], nodes: list[str], certificates: Path | None) -> None:
        for path in self.folder.iterdir():
            text = path.read_text("utf-8").replace("/var/log/nginx", str(self.folder))
            for given, own in ports.items():
                text = text.replace(f"listen 127.0.0.1:{given};", f"listen 127.0.0.1:{own};")
            text = text.replace("listen 443 ", f"listen 127.0.0.1:{ports[TLS]} ")
            if "upstream presence" in text:
                servers = "".join(_servers(nodes, rule) for rule in dict.fromkeys(_NODE.findall(text)))
                text = _NODE.sub("", text).replace("zone presence", servers + "    zone presence")
            if certificates is not None:
                text = text.replace("# include tls.conf;", "include tls.conf;")
                text = text.replace("/etc/nginx/tls/presence", str(certificates / "server"))
            path.write_text(text.replace("http {", "http {\n" + _temporary_paths(self.folder)))

    def _command(self) -> list[str]:
        return [need_program("nginx"), "-p", str(self.folder), "-e", "stderr", "-c", str(self.folder / "nginx.conf")]

    def _globals(self) -> str:
        # As root its workers would be nobody, who may not enter a test's folder.
        user = "user root;" if os.geteuid() == 0 else ""
        return f"daemon off; pid {self.folder}/pid; {user}"

    def _serves(self, port: int) -> bool:
        assert self.process.poll() is None, self._errors.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True


def _servers(nodes: list[str], rule: str) -> str:
    return "".join(f"    server {node} {rule}\n" for node in nodes)


def _temporary_paths(folder: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
