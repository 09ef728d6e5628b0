"""What docs/nodes.md gives to operators: the unit, the images, the compose file and the recipe for passwords."""

from __future__ import annotations

import ctypes
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from presence.settings import Settings
from tests.support.deployments import PREFIX
from tests.support.documents import DOCS, ROOT, blocks, fragment
from tests.support.node import Node
from tests.support.ports import free_ports
from tests.support.programs import need_program
from tests.support.redis_server import RedisServer

UNIT = DOCS / "systemd" / "presence@.service"
DOCKER = DOCS / "docker"
INSTALLED = "/opt/presence/bin"
MARGIN_S = 5
MOST_EXPOSED = 15  # tenths; systemd calls up to 2.0 "OK", and 9.6 is a unit without any hardening
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The template as an instance on this machine, where the program is installed elsewhere."""
    path = tmp_path / "presence@8081.service"
    path.write_text(UNIT.read_text("utf-8").replace(INSTALLED, str(Path(sys.executable).parent)))
    return path


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    done = _run(need_program("systemd-analyze"), "verify", "--man=no", str(unit))

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_is_hardened(unit: Path) -> None:
    limit = f"--threshold={MOST_EXPOSED}"
    done = _run(need_program("systemd-analyze"), "security", "--offline=true", "--no-pager", limit, str(unit))

    assert done.returncode == 0, done.stdout


def test_whoever_stops_a_node_waits_for_longer_than_it_drains() -> None:
    longest_s = Settings().drain_ms / 1000 + MARGIN_S

    (unit_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text("utf-8"), re.MULTILINE)
    waits = {name: service.get("stop_grace_period", "0s") for name, service in _compose()["services"].items()}
    assert int(unit_s) >= longest_s
    assert [int(waits[f"node{number}"].removesuffix("s")) >= longest_s for number in (1, 2, 3)] == [True] * 3


def test_the_dockerfile_has_no_findings() -> None:
    done = _run(_tool("hadolint"), "--failure-threshold", "info", str(DOCKER / "Dockerfile"))

    assert done.returncode == 0, done.stdout


def test_the_compose_file_is_one() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = _run(_tool("check-jsonschema"), *schema, str(DOCKER / "compose.yaml"))

    assert done.returncode == 0, done.stdout
    for name, service in _compose()["services"].items():
        assert re.search(r":[\d.]+-", service["image"]) or "build" in service, f"{name}: not a pinned image"


def test_the_images_are_made_of_files_that_exist_and_that_docker_may_see() -> None:
    copied = [word for line in _instructions("COPY") if "--from" not in line for word in line.split()[1:-1]]
    seen = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}

    assert all((ROOT / word).exists() for word in copied), copied
    assert {word.partition("/")[0] for word in copied} <= seen
    assert (ROOT / ".dockerignore").read_text("utf-8").splitlines()[1] == "*"


def test_the_proxy_of_the_images_knows_its_nodes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "nginx", tmp_path / "nginx")
    (command,) = [line for line in _instructions("RUN") if line.startswith("RUN sed")]
    done = _run("bash", "-c", command.removeprefix("RUN ").replace("/etc/nginx/", f"{tmp_path}/nginx/"))
    assert done.returncode == 0, done.stderr

    text = (tmp_path / "nginx" / "presence.conf").read_text("utf-8")
    nodes = re.findall(r"^ *server ([\w.:]+) ", text, re.MULTILINE)
    assert nodes == [f"node{number}:8080" for number in (1, 2, 3)] * 2
    assert re.findall(r"^ *listen (.*);", text, re.MULTILINE) == ["8080", "8090"]
    for path in (tmp_path / "nginx").glob("*.conf"):  # names that only Docker knows, and ports that may be taken
        own = re.sub(r"node\d:8080", "127.0.0.1:1", path.read_text("utf-8")).replace("listen 80", "listen 127.0.0.1:80")
        path.write_text(own)
    done = _run(need_program("nginx"), "-t", "-g", f"pid {tmp_path}/pid;", "-c", str(tmp_path / "nginx" / "nginx.conf"))
    assert done.returncode == 0, done.stderr
    assert "/var/log/nginx" not in (tmp_path / "nginx" / "outside.conf").read_text("utf-8")


def test_the_redis_of_the_compose_file_is_configured_as_documented() -> None:
    lines = (DOCKER / "redis.conf").read_text("utf-8").splitlines()[1:]

    documented = fragment("redis.conf: every server") + fragment("redis.conf: users")
    assert lines == ["dir /data", *documented.splitlines()]


@pytest.fixture
def deployed(unit: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A Redis and a node that were started from what the recipe for passwords makes, as the unit says."""
    shutil.copytree(DOCKER, tmp_path / "docker")
    (recipe,) = [block for block in blocks(DOCS / "nodes.md", "sh") if "mkdir -m 700 secrets" in block]
    assert _run("bash", "-euc", recipe, cwd=tmp_path / "docker").returncode == 0
    secrets, (port, redis_port) = tmp_path / "docker" / "secrets", free_ports(2)
    _replace(secrets / "redis.conf", "dir /data", f"dir {tmp_path}")
    _replace(secrets / "presence.toml", "@redis:6379", f"@127.0.0.1:{redis_port}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        environment = {
            "PYTHONPATH": str(ROOT),
            "CREDENTIALS_DIRECTORY": str(secrets),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "PRESENCE_PORT": str(port),
        }
        (command,) = re.findall(r"^ExecStart=(.*)$", unit.read_text("utf-8"), re.MULTILINE)
        command = command.replace("${CREDENTIALS_DIRECTORY}", str(secrets))
        bind = ("--bind", "127.0.0.1", "--port", str(redis_port))
        redis = subprocess.Popen([need_program("redis-server"), str(secrets / "redis.conf"), *bind], stdout=-3)
        with (tmp_path / "out").open("wb") as out, (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                command.split(), env=environment, cwd="/", stdout=out, stderr=log, preexec_fn=_without_new_code
            )
        node = Node(process, tmp_path / "out", tmp_path / "log")
        try:
            yield SimpleNamespace(node=node, manager=manager, port=port, secrets=secrets)
        finally:
            node.kill()
            redis.kill()
            redis.wait()


def test_a_node_runs_as_unit_and_recipe_say_and_tells_systemd_how_far_it_is(deployed: Any) -> None:
    assert deployed.manager.recv(100) == b"READY=1"
    deployed.node.ready()
    with urlopen(f"http://127.0.0.1:{deployed.port}/readyz", timeout=5) as answer:
        assert answer.status == 200
    assert _healthy(deployed.port) == 0

    deployed.node.terminate()

    assert deployed.manager.recv(100) == b"STOPPING=1"
    assert deployed.node.wait() == 0
    assert _healthy(deployed.port) != 0
    left = [path.name for path in deployed.secrets.iterdir() if re.search(r"[A-Z]{3,}_(?!URL)[A-Z]+", path.read_text())]
    assert left == [], "a password was not replaced"


def test_a_node_whose_port_is_taken_says_so_in_one_line_and_is_to_be_started_again(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = Node.launch(tmp_path, redis_server.url, port=port, key_prefix=PREFIX + "port")
        code = node.wait()

    assert f"RestartPreventExitStatus={code}" not in UNIT.read_text("utf-8")
    assert node.complaints() == []
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in node.log.read_text()


@pytest.mark.long
def test_the_files_that_the_image_is_made_of_are_enough_to_install_it(tmp_path: Path) -> None:
    for line in _instructions("COPY")[:3]:
        *sources, _ = line.split()[1:]
        for source in sources:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, tmp_path / source)  # type: ignore[operator]
    (install,) = [line for line in _instructions("RUN") if "pip install" in line]

    done = _run("bash", "-euc", install.removeprefix("RUN ").replace("/opt/presence", f"{tmp_path}/venv"), cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert _run(f"{tmp_path}/venv/bin/presence", "settings", cwd=tmp_path).returncode == 0
    assert list((tmp_path / "venv").glob("lib/*/site-packages/presence/static/presence.js"))


# ---- below: helpers ----


def _healthy(port: int) -> int:
    """The exit code of the image's health check."""
    (line,) = _instructions("HEALTHCHECK")
    python, option, program = yaml.safe_load(line.partition(" CMD ")[2])
    assert python == f"{INSTALLED}/python"
    return _run(sys.executable, option, program, env={"PRESENCE_PORT": str(port)}).returncode


def _without_new_code() -> None:
    """As MemoryDenyWriteExecute=; kernels before 6.3 do not know it."""
    ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)


def _instructions(word: str) -> list[str]:
    text = (DOCKER / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    found = [line for line in text.splitlines() if line.startswith(f"{word} ")]
    assert found, f"the Dockerfile has no {word}"
    return found


def _compose() -> Any:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))


def _replace(path: Path, given: str, own: str) -> None:
    text = path.read_text("utf-8")
    assert given in text, f"{path.name} has no {given}"
    path.write_text(text.replace(given, own))


def _tool(name: str) -> str:
    """A program of the extra `test`: beside the interpreter."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else need_program(name)


def _run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)
