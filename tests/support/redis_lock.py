"""Servers that are locked as docs/deploy.md says: its users, and TLS with certificates of a test's own."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.documents import fragment, options
from tests.support.programs import need_program

PASSWORDS = {
    "OPERATOR_PASSWORD": "xo-5f2c81d9",
    "NODES_PASSWORD": "xn/90:be@7?d#1%2F&+",  # what breaks an address that is put together carelessly
    "CHECK_PASSWORD": "xc-c3a1b2e4",
    "REPLICA_PASSWORD": "xr-77d06f10",
    "SENTINEL_PASSWORD": "xs-e15b9a33",
    "PEER_PASSWORD": "xp-48c7d5e2",
    "ASKING_PASSWORD": "xa/2b:4f@6?c#4%40&+",
}
TLS_FOLDER, CA_FILE = "/etc/redis/tls/", "/etc/presence/ca.crt"


class Lock:
    """Users of the documentation; with a folder of certificates TLS, too."""

    def __init__(self, certificates: Path | None = None) -> None:
        self.certificates = certificates

    def options(self, file: str, *titles: str) -> dict[str, str]:
        """Options of the fragments `users…` and, with certificates, `TLS…` of this file."""
        wanted = [title for title in titles if self.certificates or not title.startswith("TLS")]
        return {name: self._filled(value) for name, value in options(*(f"{file}: {title}" for title in wanted)).items()}

    def url(self, kind: str, ports: Iterable[int]) -> str:
        """The documentation's address of one Redis, Sentinel or Cluster, for servers on these ports."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        text = fragment(f"PRESENCE_REDIS_URL: {'TLS, ' if self.certificates else ''}{kind}").strip()
        text = text.replace("HOST1,HOST2,HOST3", hosts).replace("HOST:6379", hosts)
        for word, password in PASSWORDS.items():
            text = text.replace(word, quote(password, safe=""))
        return text.replace(CA_FILE, quote(str(self._file("ca.crt")))) if self.certificates else text

    def login(self) -> dict[str, Any]:
        """How a client comes in as the operator, who may do everything."""
        tls = {"ssl": True, "ssl_ca_certs": str(self._file("ca.crt"))} if self.certificates else {}
        return {"username": "operator", "password": PASSWORDS["OPERATOR_PASSWORD"], **tls}

    def connect(self, port: int) -> socket.socket:
        """An open connection without any login."""
        plain = socket.create_connection(("127.0.0.1", port), timeout=1)
        if not self.certificates:
            return plain
        context = ssl.create_default_context(cafile=str(self._file("ca.crt")))
        try:
            return context.wrap_socket(plain, server_hostname="127.0.0.1")
        except BaseException:
            plain.close()
            raise

    def _filled(self, value: str) -> str:
        for word, password in PASSWORDS.items():
            value = value.replace(word, password)
        return value.replace(TLS_FOLDER, f"{self.certificates}/")

    def _file(self, name: str) -> Path:
        assert self.certificates is not None, "there is no TLS here"
        return self.certificates / name


def refusals(client: Any) -> list[dict[bytes, object]]:
    """What a server has refused to any user, by its ACL LOG."""
    entries = [_fields(entry) for entry in client.execute_command("ACL", "LOG")]
    # The library tells servers from 7.2 its name; 7.0 does not know that right, so the documentation does not give it.
    return [entry for entry in entries if entry[b"object"] != b"client|setinfo"]


def _fields(entry: Any) -> dict[bytes, object]:
    return entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))


def make_certificates(folder: Path) -> Path:
    """An authority, and a certificate of it for servers on the loopback address, under the documentation's names."""
    folder.mkdir(parents=True)
    (folder / "name.cnf").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    _openssl(folder, "req", "-x509", *key, "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.crt")
    _openssl(folder, "req", "-new", *key[:3], "-subj", "/CN=redis", "-keyout", "redis.key", "-out", "redis.csr")
    sign = ("-in", "redis.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    _openssl(folder, "x509", "-req", *sign, "-extfile", "name.cnf", "-out", "redis.crt")
    return folder


def _openssl(folder: Path, *words: str) -> None:
    done = subprocess.run([need_program("openssl"), *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
