"""Preloaded into a node under test: SIGUSR1 makes it log how many timers and tasks its event loop has.

Counted by type name among all living objects, so that it holds for every loop implementation.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from types import FrameType


def _asked(signum: int, frame: FrameType | None) -> None:
    # Not here: a signal comes in the middle of anything, also of the making of a timer.
    asyncio.get_running_loop().call_soon_threadsafe(_count)


def _count() -> None:
    gc.collect()
    timers = sum(1 for each in gc.get_objects() if type(each).__name__ == "TimerHandle" and not each.cancelled())
    tasks = len(asyncio.all_tasks())
    print(f"census timers={timers} tasks={tasks}", file=sys.stderr, flush=True)


signal.signal(signal.SIGUSR1, _asked)
