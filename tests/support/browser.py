"""Headless Chromium, spoken to in its own protocol (CDP), so that a test needs the system package and no driver.

One process serves the tests of a module. Each test has a `Browser` of its own: a connection in the test's own loop, with
profiles (storage, cookies) that nobody else sees and that end with the test.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.programs import need_program
from tests.support.waiting import eventually, wait_until

ACCESSIBLE = Path(__file__).with_name("accessible.js")
SHARED_MEMORY = Path("/dev/shm")
ROOM_BYTES = 2 << 30
PR_SET_PDEATHSIG = 1
ANSWER_S = 30.0
FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--disable-features=MediaRouter,OptimizationHints,Translate",
    "--force-color-profile=srgb",
    "--mute-audio",
    "--password-store=basic",
    "--window-size=1280,900",
)
SIZES = {"wide": (1280, 900), "phone": (360, 780)}
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Chromium:
    """A browser process with a profile folder of its own. Its timers, caches and throttling are those of a user."""

    def __init__(self, directory: Path, *flags: str) -> None:
        program = need_program("chromium", "chromium-browser", "google-chrome")
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "chromium.log"
        roomy = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > ROOM_BYTES
        # Not on the disk if that can be: what a browser writes there delays the log of each Redis.
        self._home = Path(tempfile.mkdtemp(prefix="presence-chromium-", dir=SHARED_MEMORY if roomy else directory))
        place = () if roomy else ("--disable-dev-shm-usage",)
        root = ("--no-sandbox",) if os.geteuid() == 0 else ()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, *FLAGS, *place, *root, *flags, f"--user-data-dir={self._home / 'profile'}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(self._home)},
                preexec_fn=_own_group,
            )
        port_file = self._home / "profile" / "DevToolsActivePort"
        wait_until(lambda: self._ended() or (port_file.exists() and port_file.read_text().count("\n")), "Chromium", 40)
        assert not self._ended(), self.log.read_text(errors="replace")[-4000:]
        port, _, path = port_file.read_text().strip().partition("\n")
        self.url = f"ws://127.0.0.1:{port}{path}"

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """End the browser with all its processes at once (SIGKILL): as a crash, it says goodbye to nobody."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


class Browser:
    """What one test does with a Chromium. Closed and verified by `run_async`: an uncaught error of a page fails it."""

    def __init__(self, chromium: Chromium, artifacts: Path) -> None:
        self.chromium = chromium
        self.artifacts = artifacts
        self.pages: list[Page] = []
        self._socket: ClientConnection | None = None
        self._connecting = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._profiles: dict[str, str] = {}

    async def open(self, url: str = "about:blank", *, profile: str = "", beside: bool = False) -> Page:
        """A page in a window of its own, so visible; `beside`: a tab over the profile's newest one, which it hides.

        Pages of one `profile` share storage and cookies. Returns when the page has loaded.
        """
        if profile not in self._profiles:
            made = await self.command("Target.createBrowserContext")
            self._profiles[profile] = made["browserContextId"]
        context = self._profiles[profile]
        target = await self.command(
            "Target.createTarget", url="about:blank", browserContextId=context, newWindow=not beside
        )
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, target["targetId"], attached["sessionId"])
        self.pages.append(page)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await page.command(f"{domain}.enable")
        if url != "about:blank":
            await page.goto(url)
        return page

    async def command(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; fails with what Chromium says."""
        async with self._connecting:
            if self._socket is None:
                self._socket = await connect(self.chromium.url, max_size=None, ping_interval=None, proxy=None)
                self._reader = asyncio.create_task(self._read(self._socket))
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        frame: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        await self._socket.send(json.dumps({**frame, "sessionId": session} if session else frame))
        async with asyncio.timeout(ANSWER_S):
            found = await answer
        assert "error" not in found, f"{method}: {found['error']}"
        return dict(found["result"])

    async def aclose(self) -> None:
        """End all pages and profiles of the test."""
        if self._socket is None:
            return
        for context in self._profiles.values():
            with contextlib.suppress(AssertionError, ConnectionClosed, TimeoutError):
                await self.command("Target.disposeBrowserContext", browserContextId=context)
        await self._socket.close()
        if self._reader is not None:
            await self._reader

    def verify(self) -> None:
        """Fail on exceptions that no page caught, and on what its content security policy refused."""
        errors = [error for page in self.pages for error in page.errors]
        assert not errors, "\n".join(errors)

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                frame = json.loads(text)
                if "id" in frame:
                    answer = self._answers.pop(frame["id"])
                    if not answer.done():
                        answer.set_result(frame)
                    continue
                for page in [page for page in self.pages if page.session == frame.get("sessionId")]:
                    page.hear(frame["method"], frame["params"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionClosed(None, None))


class Page:
    """One tab."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser = browser
        self.target = target
        self.session = session
        self.errors: list[str] = []
        self.console: list[str] = []
        self.url = ""
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []
        self._loads = 0

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol to this page."""
        return await self.browser.command(method, self.session, **parameters)

    async def goto(self, url: str) -> None:
        """Follow an address and wait until it has loaded."""
        loads, self.url = self._loads, url
        answer = await self.command("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        await eventually(lambda: self._loads > loads, 20, what=f"{url} has loaded")

    async def reload(self) -> None:
        """As a user reloads: the old page gets its pagehide."""
        loads = self._loads
        await self.command("Page.reload")
        await eventually(lambda: self._loads > loads, 20, what="the page has loaded again")

    async def back(self) -> None:
        """Go back in the history, as by the button; the page may come out of the back-forward cache."""
        past = await self.command("Page.getNavigationHistory")
        entry = past["entries"][past["currentIndex"] - 1]
        await self.command("Page.navigateToHistoryEntry", entryId=entry["id"])

    async def close(self) -> None:
        """Close the tab as a user does."""
        await self.command("Page.close")

    async def front(self) -> None:
        """Make it the tab that is seen in its window."""
        await self.command("Page.bringToFront")

    async def run(self, script: str, *arguments: Any) -> Any:
        """The value (as JSON) of an expression; with arguments: of a function applied to them. Promises are awaited.

        Fails with the page's exception.
        """
        given = ", ".join(json.dumps(argument) for argument in arguments)
        function = arguments or script.lstrip().startswith(("//", "() =>", "async"))
        expression = f"({script}\n)({given})" if function else script
        answer = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, _said(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, script: str, *arguments: Any, within_s: float = 10.0) -> Any:
        """The first true value of `run`."""
        return await eventually(lambda: self.run(script, *arguments), within_s, 0.05, what=script)

    async def text(self, selector: str = "body") -> str:
        """What a user reads there."""
        return str(await self.run("(s) => document.querySelector(s)?.innerText ?? ''", selector))

    async def click(self, selector: str) -> None:
        """Press the middle of what the selector finds, with a real mouse event."""
        where = await self.run(
            "(s) => { const e = document.querySelector(s); e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }",
            selector,
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.command(
                "Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1
            )

    async def fill(self, selector: str, text: str) -> None:
        """Put text into a field as typing does, in place of what stands there."""
        await self.run("(s) => { const e = document.querySelector(s); e.focus(); e.select?.(); }", selector)
        await self.command("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press a key: one of `KEYS`, or a character."""
        more: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS.get(key, 0)}
        if key in ("Enter", " ") or len(key) == 1:
            more["text"] = "\r" if key == "Enter" else key
        await self.command("Input.dispatchKeyEvent", type="keyDown", **more)
        await self.command("Input.dispatchKeyEvent", type="keyUp", **{**more, "text": ""})

    async def look(self, size: str = "wide", scheme: str = "light", *, motion: str = "no-preference") -> None:
        """Be of that size (`SIZES`), light or dark, with or without motion (`reduce`)."""
        width, height = SIZES[size]
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.command("Emulation.setScrollbarsHidden", hidden=True)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        features.append({"name": "prefers-reduced-motion", "value": motion})
        await self.command("Emulation.setEmulatedMedia", features=features)

    async def flaws(self) -> list[str]:
        """What keeps people from using the page as it looks now: names, landmarks, contrast, width."""
        return list(await self.run(ACCESSIBLE.read_text("utf-8")))

    async def screenshot(self, name: str, *, whole: bool = True) -> Path:
        """A picture as `name`.png in the folder of artefacts, of the whole page or of what is seen."""
        taken = await self.command("Page.captureScreenshot", captureBeyondViewport=whole)
        file = self.browser.artifacts / f"{name}.png"
        await asyncio.to_thread(file.write_bytes, base64.b64decode(taken["data"]))
        return file

    def hear(self, method: str, parameters: dict[str, Any]) -> None:
        """An event of the protocol."""
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Runtime.exceptionThrown":
            self.errors.append(_said(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(one.get("value", one.get("description"))) for one in parameters["args"]))
        elif method == "Log.entryAdded":
            entry = parameters["entry"]
            self.console.append(entry["text"])
            if entry["source"] == "security" or "Content Security Policy" in entry["text"]:
                self.errors.append(entry["text"])
        for listener in self.listeners:
            listener(method, parameters)


def artifacts_folder(fallback: Path) -> Path:
    """Where pictures for a person go: the folder that ARTIFACTS names, else the test's own."""
    folder = Path(os.environ.get("ARTIFACTS") or fallback)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _said(details: dict[str, Any]) -> str:
    thrown = details.get("exception", {})
    return str(thrown.get("description") or thrown.get("value") or details["text"])


def _own_group() -> None:
    """A process group to end as a whole, which dies with the tests and gives way to the servers."""
    os.setsid()
    os.nice(5)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
