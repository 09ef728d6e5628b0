"""The browser's modules without a browser: unit tests in Node, types by the TypeScript compiler, and their size."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.documents import ROOT
from tests.support.programs import need_program

STATIC = ROOT / "static"
UNIT = Path("tests/browser/unit")
CLIENT = (
    "presence.js",
    "client/backoff.js",
    "client/keeper.js",
    "client/line.js",
    "client/roster.js",
)
MOST_BYTES = 8_000
TYPES = ("presence.d.ts", "client/types.d.ts")
COMPILER = (
    "--target",
    "es2022",
    "--module",
    "es2022",
    "--moduleResolution",
    "node",
    "--lib",
    "dom,dom.iterable,es2022",
)
UNKNOWN = re.compile(r".*error TS(?:2304|2451|2448|2552|2554|18004): .*")
"""A name that is not there, is there twice, is used too early; a call with another number of arguments."""


def test_the_unit_tests_of_the_browser_s_modules_pass(tmp_path: Path) -> None:
    node = need_program("node", "nodejs")
    shutil.copytree(STATIC, tmp_path / "static")
    shutil.copytree(ROOT / UNIT, tmp_path / UNIT)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    suites = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / UNIT).glob("*.test.mjs"))

    done = _run(tmp_path, node, "--test", *suites)
    assert done.returncode == 0, done.stdout
    assert len(suites) >= 3


def test_the_client_is_small() -> None:
    loaded = {"presence.js"}
    for name in CLIENT:
        folder = Path(name).parent
        text = (STATIC / name).read_text("utf-8")
        loaded |= {str(folder / found) for found in re.findall(r'^import .*"\./(.+)";$', text, re.MULTILINE)}
        loaded |= {str(folder / found) for found in re.findall(r'new URL\("(.+)", import\.meta', text)}

    assert loaded == set(CLIENT)
    sizes = {name: len(gzip.compress((STATIC / name).read_bytes(), 9)) for name in CLIENT}
    assert sum(sizes.values()) <= MOST_BYTES, sizes


def test_the_types_are_those_of_the_sources_and_serve_a_strict_page(tmp_path: Path) -> None:
    compiler = need_program("tsc")
    outputs = ("--allowJs", "--checkJs", "--declaration", "--emitDeclarationOnly", "--outDir", str(tmp_path))
    made = _run(STATIC, compiler, *COMPILER, *outputs, *CLIENT, "client/types.js")
    wrong = [line for line in made.stdout.splitlines() if UNKNOWN.fullmatch(line)]
    assert not wrong, "\n".join(wrong)
    for name in TYPES:
        generated = (tmp_path / name).read_text("utf-8")
        assert (STATIC / name).read_text("utf-8") == generated, (
            f"static/{name} must be made again: docs/contributing.md"
        )

    used = _run(ROOT, compiler, *COMPILER, "--strict", "--noEmit", "--skipLibCheck", str(UNIT / "consumer.ts"))
    assert used.returncode == 0, used.stdout


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
