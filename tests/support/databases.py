"""Real SQL servers of the tests' own, each on a unix socket in a folder of its own, to be stopped and started again.

Neither PostgreSQL nor MariaDB runs as root: there they run as `nobody`.
"""

from __future__ import annotations

import ctypes
import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import create_engine, text

from presence.archive.engine import DRIVERS
from tests.support.programs import need_program
from tests.support.waiting import wait_until

PR_SET_PDEATHSIG = 1
KINDS = ("sqlite", "postgresql", "mariadb")


class Database(Protocol):
    """Where archives of tests live."""

    def fresh(self) -> str:
        """The address of an empty database."""

    def stop(self) -> None:
        """End it for good."""


class SqliteFolder:
    """SQLite needs no server."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="presence-sqlite-"))

    def fresh(self) -> str:
        return f"sqlite:///{self._folder}/{secrets.token_hex(4)}.sqlite"

    def stop(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class SqlServer:
    """One server process in a folder that is removed at the end."""

    def __init__(self, prefix: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.user = "nobody" if os.geteuid() == 0 else None
        if self.user is not None:
            os.chown(self.folder, pwd.getpwnam(self.user).pw_uid, -1)

    def url(self, database: str) -> str:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError

    def fresh(self) -> str:
        """Create an empty database."""
        name = f"archive_{secrets.token_hex(4)}"
        execute(self.url(self.first), f"CREATE DATABASE {name}", autocommit=True)
        return self.url(name)

    first = ready_words = ""

    def halt(self) -> None:
        """End the process in an orderly way, cutting all connections; `start` brings it back with its data."""
        if self._process is not None:
            self._process.send_signal(self.end_signal)
            self._process.wait(60)
            self._process = None

    end_signal = signal.SIGTERM

    def stop(self) -> None:
        try:
            self.halt()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, user=self.user, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _launch(self, *command: str) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                user=self.user,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        wait_until(self._answers, f"{command[0]} answers: {self.log}", 60)

    def _answers(self) -> bool:
        assert self._process is not None
        said = self.log.read_text(errors="replace")
        assert self._process.poll() is None, said[-2000:]
        return self.ready_words in said  # who connects earlier leaves a socket behind


class Postgres(SqlServer):
    """PostgreSQL, whichever version is installed."""

    first = "postgres"
    ready_words = "ready to accept connections"
    end_signal = signal.SIGINT  # "fast": what restarting the service does

    def __init__(self) -> None:
        programs = [shutil.which("postgres"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), reverse=True)]
        program = next((path for path in programs if path), None)
        self.program = program or need_program("postgres")
        super().__init__("presence-postgres-")
        initdb = str(Path(self.program).with_name("initdb"))
        self._run(initdb, "-D", str(self.data), "-U", "presence", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        self.start()

    def url(self, database: str) -> str:
        return f"postgresql://presence@/{database}?host={self.folder}"

    def start(self) -> None:
        settings = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}", "-c", "fsync=off")
        self._launch(self.program, "-D", str(self.data), *settings, "-c", "max_connections=50")


class MariaDb(SqlServer):
    """MariaDB, or MySQL's successor of that name."""

    first = "mysql"
    ready_words = "ready for connections"

    def __init__(self) -> None:
        self.program = need_program("mariadbd")
        super().__init__("presence-mariadb-")
        self._run(
            need_program("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        self.start()

    def url(self, database: str) -> str:
        return f"mysql://root@localhost/{database}?unix_socket={self.folder}/socket"

    def start(self) -> None:
        self._launch(
            *(self.program, "--no-defaults", f"--datadir={self.data}", f"--socket={self.folder}/socket"),
            *("--skip-networking", f"--pid-file={self.folder}/pid", "--innodb-flush-log-at-trx-commit=0"),
        )


MAKERS: dict[str, type[SqliteFolder] | type[Postgres] | type[MariaDb]] = {
    "sqlite": SqliteFolder,
    "postgresql": Postgres,
    "mariadb": MariaDb,
}


class Databases:
    """The servers of a test run, each started when the first test wants it."""

    def __init__(self) -> None:
        self._made: dict[str, SqliteFolder | Postgres | MariaDb] = {}

    def of(self, kind: str) -> Any:
        """The server of that kind."""
        if kind != "sqlite":
            pytest.importorskip("psycopg" if kind == "postgresql" else "pymysql")
        if kind not in self._made:
            self._made[kind] = MAKERS[kind]()
        return self._made[kind]

    def stop(self) -> None:
        """End them all."""
        for database in self._made.values():
            database.stop()


def execute(url: str, *statements: str, autocommit: bool = False) -> list[Any]:
    """Run SQL as an operator would, and return the rows of the last statement."""
    scheme, _, rest = url.partition("://")
    engine = create_engine(f"{DRIVERS[scheme]}://{rest}")
    try:
        with engine.connect() as connection:
            if autocommit:
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            rows: list[Any] = []
            for statement in statements:
                result = connection.execute(text(statement))
                rows = list(result) if result.returns_rows else []
            if not autocommit:
                connection.commit()
            return rows
    finally:
        engine.dispose()


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
