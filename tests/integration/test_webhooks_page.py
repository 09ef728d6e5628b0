"""The example of docs/webhooks.md does what it says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.documents import DOCS, blocks
from tests.support.hooks import come_and_go
from tests.support.ports import free_ports
from tests.support.receiver import SECRET
from tests.support.stage import StageMaker
from tests.support.waiting import eventually, run_async


@run_async
async def test_the_page_s_receiver_prints_who_comes_and_goes(
    own_stage: StageMaker, tmp_path: Path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    (port,) = free_ports(1)
    (targets,), (program,) = blocks(DOCS / "webhooks.md", "toml"), blocks(DOCS / "webhooks.md", "python")
    (tmp_path / "webhooks.toml").write_text(targets.replace(":9000", f":{port}"))
    (tmp_path / "receiver.py").write_text(program.replace("9000", str(port)))
    printed = tmp_path / "printed"
    with printed.open("wb") as out:
        command = (sys.executable, str(tmp_path / "receiver.py"))
        receiver = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=asyncio.subprocess.DEVNULL)
    try:
        stage = own_stage(1, webhooks_file=tmp_path / "webhooks.toml")
        await come_and_go(stage, "lobby", "ann")
        await eventually(lambda: printed.read_text() == "join ann lobby\nleave ann lobby\n")
    finally:
        receiver.kill()
        await receiver.wait()
