"""Brings the events of a channel to everybody on this node who watches it, in order and without a hole.

A topic is one channel as this node knows it; a subscriber has its own position in it. Listen first, read
history second, drop duplicates by seq: `open` comes before the script that gives the position, `attach` after.
What cannot be continued from here is read again from Redis (`reconcile`), never guessed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Collection, Coroutine
from typing import Any

from presence import events
from presence.answers import View
from presence.errors import Unavailable
from presence.events import Event
from presence.logs import get
from presence.mailbox import Frame
from presence.metrics import Metrics
from presence.topic import EARLY, Subscriber, Topic
from presence.tracker import Tracker

log = get(__name__)

WINDOW_S = 0.020  # the first event after quiet goes at once; what follows is collected this long
MAX_WINDOW_S = 0.100
TICK_S = 0.010
RECENT = 64  # events a topic keeps for subscribers that come while others are ahead
FRAME_BYTES = 60_000
RETRY_S = 0.2
RECONCILE_AT_ONCE = 200


class Hub:
    """All topics of this node, and the one loop that flushes them."""

    def __init__(self, tracker: Tracker, metrics: Metrics) -> None:
        self._tracker = tracker
        self._metrics = metrics
        self._topics: dict[str, Topic] = {}
        self._dirty: dict[Topic, None] = {}
        self._restoring: set[tuple[Topic, Subscriber]] = set()  # who is being brought up to the topic from the log
        self._tick: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, channel: str) -> Topic:
        """Start to listen; to be called before the script that tells the position. Pair with `close`."""
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = Topic(channel)
        topic.users += 1
        return topic

    def close(self, topic: Topic, subscriber: Subscriber | None = None) -> None:
        """Stop listening; the last one to do so ends the topic."""
        if subscriber is not None:
            topic.subscribers.pop(subscriber, None)
        topic.users -= 1
        if topic.users == 0:
            self._dirty.pop(topic, None)
            if self._topics.get(topic.channel) is topic:
                del self._topics[topic.channel]

    def attach(self, topic: Topic, subscriber: Subscriber, view: View) -> None:
        """Send the subscriber everything that follows the view it was shown."""
        subscriber.epoch, subscriber.seq = view.epoch, view.seq
        topic.subscribers[subscriber] = None
        if not topic.positioned:
            self._position(topic, view)
        elif topic.epoch != view.epoch:
            self._reconcile_soon(topic)  # whichever of the two is behind
            self._restore_soon(topic, subscriber)
        elif view.seq < topic.sent:
            self._catch_up(topic, subscriber)

    def deliver(self, event: Event) -> None:
        """Take an event from the bus."""
        topic = self._topics.get(event.channel)
        if topic is None:
            return
        if not topic.positioned:
            topic.early.append(event)  # the newest are kept: a gap at the old end shows
            return
        if event.epoch == topic.epoch and event.seq <= topic.seq:
            return
        if event.epoch != topic.epoch or event.seq != topic.seq + 1:
            self._metrics.subscription_gaps.inc()
            self._reconcile_soon(topic)
            return
        self._apply(topic, event.text, event.at_ms)

    async def reconcile(self, partitions: Collection[int] | None = None) -> None:
        """Read all topics (of these partitions) again from the log: after a new subscription, or lost data."""
        topics = [
            topic
            for topic in self._topics.values()
            if topic.positioned and (partitions is None or self._tracker.keys.partition(topic.channel) in partitions)
        ]
        for at in range(0, len(topics), RECONCILE_AT_ONCE):
            await asyncio.gather(*(self._reconcile(topic) for topic in topics[at : at + RECONCILE_AT_ONCE]))

    def channels(self) -> list[str]:
        """Channels that somebody on this node watches."""
        return [topic.channel for topic in self._topics.values() if topic.subscribers]

    async def stop(self) -> None:
        """End the tasks under way."""
        if self._tick is not None:
            self._tick.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _position(self, topic: Topic, view: View) -> None:
        topic.epoch, topic.seq, topic.sent = view.epoch, view.seq, view.seq
        topic.positioned = True
        early, topic.early = topic.early, deque(maxlen=EARLY)
        for event in early:
            if event.epoch == view.epoch and event.seq <= view.seq:
                continue
            self.deliver(event)

    def _apply(self, topic: Topic, text: bytes, at_ms: int) -> None:
        topic.seq += 1
        if topic.recent is None:
            topic.recent = deque(maxlen=RECENT)
        topic.recent.append((topic.seq, text))
        topic.pending.append(text)
        topic.at_ms = topic.at_ms or at_ms
        topic.pending_bytes += len(text)
        now = time.monotonic()
        if now >= topic.quiet_until or topic.pending_bytes > FRAME_BYTES:
            self._flush(topic, now)
            return
        self._dirty[topic] = None
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._flush_due)

    def _flush_due(self) -> None:
        self._tick = None
        now = time.monotonic()
        for topic in [topic for topic in self._dirty if now >= topic.quiet_until]:
            del self._dirty[topic]
            self._flush(topic, now)
        if self._dirty:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._flush_due)

    def _flush(self, topic: Topic, now: float) -> None:
        """One frame for all; only who is elsewhere than the others gets one of its own."""
        texts, topic.pending, topic.pending_bytes = topic.pending, [], 0
        if not texts:
            return
        first, topic.sent = topic.sent, topic.seq
        # The window grows with the channel: a storm of joins costs frames by the tick, not by the square.
        window = min(MAX_WINDOW_S, WINDOW_S + len(topic.subscribers) * 0.00002)
        topic.quiet_until = now + window
        frame = self._frame(topic, topic.seq, texts, topic.at_ms)
        topic.at_ms = 0
        sent: Counter[str] = Counter()
        for subscriber in list(topic.subscribers):
            if subscriber.epoch != topic.epoch or subscriber.seq >= topic.seq:
                continue
            if subscriber.seq == first:
                subscriber.seq = topic.seq
                subscriber.put(frame)
            else:
                self._catch_up(topic, subscriber)
            sent[subscriber.transport] += 1
        for transport, number in sent.items():
            self._metrics.deliveries[transport].inc(number)

    def _catch_up(self, topic: Topic, subscriber: Subscriber) -> None:
        recent = [text for seq, text in topic.recent or () if subscriber.seq < seq <= topic.sent]
        if len(recent) != topic.sent - subscriber.seq:
            self._restore_soon(topic, subscriber)
            return
        subscriber.seq = topic.sent
        subscriber.put(self._frame(topic, topic.sent, recent))

    @staticmethod
    def _frame(topic: Topic, seq: int, texts: list[bytes], at_ms: int = 0) -> Frame:
        payload = events.events(topic.channel, topic.epoch, seq, texts)
        return Frame(payload, channel=topic.channel, epoch=topic.epoch, seq=seq, at_ms=at_ms)

    def _restore_soon(self, topic: Topic, subscriber: Subscriber) -> None:
        if (topic, subscriber) not in self._restoring:
            self._restoring.add((topic, subscriber))
            self._start(self._restore(topic, subscriber))

    async def _restore(self, topic: Topic, subscriber: Subscriber) -> None:
        """Bring one subscriber that is behind what the topic remembers up to it, from the log."""
        while subscriber in topic.subscribers:
            asked = subscriber.epoch, subscriber.seq
            try:
                view = await self._tracker.view(topic.channel, asked)
            except Unavailable:
                await asyncio.sleep(RETRY_S)
                continue
            if subscriber not in topic.subscribers:
                break
            if (subscriber.epoch, subscriber.seq) == asked:  # else something else has moved it on meanwhile
                self._restoring.discard((topic, subscriber))
                self._show(topic, subscriber, view)
                return
        self._restoring.discard((topic, subscriber))

    def _show(self, topic: Topic, subscriber: Subscriber, view: View) -> None:
        if view.recovered and view.items:
            payload = events.events(topic.channel, view.epoch, view.seq, view.items)
        elif view.recovered:
            return
        else:
            payload = self._snapshot(topic.channel, subscriber.role, view)
        subscriber.put(Frame(payload, channel=topic.channel, epoch=view.epoch, seq=view.seq))
        self.attach(topic, subscriber, view)

    @staticmethod
    def _snapshot(channel: str, role: str, view: View) -> bytes:
        return events.joined(channel, role, view.epoch, view.seq, False, view.count, view.truncated, view.items)

    def _reconcile_soon(self, topic: Topic) -> None:
        if topic.reconciling:
            topic.again = True
        else:
            self._start(self._reconcile(topic))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reconcile(self, topic: Topic) -> None:
        if topic.reconciling:
            topic.again = True
            return
        topic.reconciling = True
        try:
            while topic.users:
                topic.again = False
                asked = topic.epoch, topic.seq
                try:
                    view = await self._tracker.view(topic.channel, asked)
                except Unavailable:
                    await asyncio.sleep(RETRY_S)
                    continue
                if not view.recovered and (topic.epoch, topic.seq) != asked:
                    continue  # the bus went on while we asked: the answer is of before
                self._merge(topic, view)
                if not topic.again:
                    return
        finally:
            topic.reconciling = False

    def _merge(self, topic: Topic, view: View) -> None:
        if view.recovered:
            missing = view.seq - topic.seq  # the bus may have brought some of them meanwhile
            for text in view.items[len(view.items) - missing :] if missing > 0 else ():
                self._apply(topic, text, 0)
            return
        log.info("history_lost", recovered=False, subscribers=len(topic.subscribers))
        topic.epoch, topic.seq, topic.sent = view.epoch, view.seq, view.seq
        topic.pending, topic.pending_bytes, topic.recent = [], 0, None
        frames: dict[str, Frame] = {}
        for subscriber in list(topic.subscribers):
            if (subscriber.epoch, subscriber.seq) == (view.epoch, view.seq):
                continue
            frame = frames.get(subscriber.role)
            if frame is None:
                payload = self._snapshot(topic.channel, subscriber.role, view)
                frame = frames[subscriber.role] = Frame(payload, channel=topic.channel, epoch=view.epoch, seq=view.seq)
            subscriber.epoch, subscriber.seq = view.epoch, view.seq
            subscriber.put(frame)
