"""The command ``presence``: serve, archive, token, check, settings.

Whatever is wrong with the way it was called ends in one line on stderr and exit code 2; modules that only one
command needs are imported by that command, so that the others start at once.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from presence import __version__
from presence.errors import BadSetting, CannotListen, PresenceError
from presence.options import archive_url as checked_archive_url
from presence.settings import FIELDS, Settings, describe, for_dev, load

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (BadSetting, PresenceError) as error:
        print(f"presence {options.command}: {error}", file=sys.stderr)
        return 2
    except CannotListen as error:
        print(f"presence {options.command}: {error}", file=sys.stderr)
        return 1  # not 2: whoever watches over the node should start it again
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; point stdout elsewhere or the exit complains about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _serve(options: argparse.Namespace) -> int:
    settings = for_dev(_settings(options)) if options.dev else _settings(options)
    if not settings.token_secret and settings.token_key_file is None:
        raise BadSetting(
            "client tokens need PRESENCE_TOKEN_SECRET (32 bytes or more) or PRESENCE_TOKEN_KEY_FILE; "
            "to try it out: presence serve --dev"
        )
    from presence.app import serve

    return serve(settings)


def _archive(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from presence.archive import missing

    try:
        from presence.archive.command import make_task, run
        from presence.archive.worker import Terms
    except ModuleNotFoundError as error:
        raise missing(error) from None
    terms = Terms(
        channels=options.channels,
        lease_ms=_whole("--lease-ms", options.lease_ms, 1000, 3_600_000),
        max_deliveries=_whole("--max-deliveries", options.max_deliveries, 1, 1000),
    )
    port = None if options.metrics_port is None else _whole("--metrics-port", options.metrics_port, 0, 65_535)
    return run(
        make_task(
            settings,
            database=options.database and _database(options.database),
            server=options.server,
            metrics_host=options.metrics_host,
            metrics_port=port,
            terms=terms,
        )
    )


def _token(options: argparse.Namespace) -> int:
    from presence.auth import Authenticator

    authenticator = Authenticator(_settings(options))
    print(authenticator.make_token(options.user, _channels(options.channels), _seconds(options.ttl)))
    return 0


def _check(options: argparse.Namespace) -> int:
    from presence.check import run

    return run(_settings(options))


def _show_settings(options: argparse.Namespace) -> int:
    for row in describe(_settings(options)):
        unit = f" {row.unit}" if row.unit else ""
        print(f"{row.name}={row.value}")
        print(f"    {row.help} (default: {row.default or 'empty'}{unit}; from: {row.source})")
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    given = vars(options)
    flags = {name: given[name] for name in FIELDS if given.get(name) is not None}
    return load(flags, os.environ, options.config)


def _channels(texts: Sequence[str] | None) -> Mapping[str, list[str]] | None:
    """Return the patterns of ``'room:*=join,see;chat=see'``; the last ``=`` counts, as names may hold one."""
    if not texts:
        return None
    channels: dict[str, list[str]] = {}
    for part in (part.strip() for text in texts for part in text.split(";")):
        pattern, equals, grants = part.rpartition("=")
        if not equals:
            raise BadSetting(f"--channels {part!r}: must look like 'room:*=join,see'")
        channels[pattern] = [grant.strip() for grant in grants.split(",") if grant.strip()]
    return channels


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if not match or not int(match[1]):
        raise BadSetting(f"--ttl {text!r}: must look like 90s, 15m, 1h or 7d")
    return int(match[1]) * _UNIT_S[match[2]]


def _database(text: str) -> str:
    try:
        return checked_archive_url(text)
    except ValueError as error:
        raise BadSetting(f"--database: {error}") from None


def _whole(flag: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise BadSetting(f"{flag} {text!r}: must be a whole number from {low} to {high}")
    return int(text)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of forty flags around it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="presence", description="Who is in a channel right now, and who just vanished.")
    parser.add_argument("--version", action="version", version=f"presence {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    serve = _command(commands, "serve", _serve, "run a node", all_settings=True)
    serve.add_argument(
        "--dev", action="store_true", help="make secret and key, open the demo page, print ready-made links"
    )
    _archive_command(commands)
    token = _command(commands, "token", _token, "print a client token signed with PRESENCE_TOKEN_SECRET")
    token.add_argument("--user", required=True, help="id of the user")
    token.add_argument(
        "--channels",
        action="append",
        metavar="PATTERN=GRANTS",
        help="such as 'room:*=join,see', by semicolon or repeated; grants are join, see, publish, history "
        "(default: join and see everywhere)",
    )
    token.add_argument("--ttl", default="1h", help="how long it is good: 90s, 15m, 1h, 7d (default: 1h)")
    _command(commands, "check", _check, "say what is wrong with Redis or the settings", all_settings=True)
    _command(commands, "settings", _show_settings, "print every setting and its source", all_settings=True)
    return parser


def _archive_command(commands: argparse._SubParsersAction[_Parser]) -> None:
    archive = _command(commands, "archive", _archive, "write ended sessions to a database, from the queue `archive`")
    archive.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:///FILE, postgresql://… or mysql://… "
        "(default: PRESENCE_ARCHIVE_URL, else a file in the data folder)",
    )
    archive.add_argument(
        "--server", metavar="URL", help="address of any node (default: that of PRESENCE_HOST and _PORT)"
    )
    archive.add_argument("--channels", default="*", metavar="PATTERN", help="only these channels, such as 'room:*'")
    archive.add_argument(
        "--lease-ms", default="30000", metavar="VALUE", help="when another worker gets a batch (default: 30000)"
    )
    archive.add_argument(
        "--max-deliveries", default="20", metavar="VALUE", help="how often a refused row is tried (default: 20)"
    )
    archive.add_argument("--metrics-port", metavar="VALUE", help="answer GET /metrics there; 0 picks a free one")
    archive.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="VALUE", help="address for that (default: 127.0.0.1)"
    )


def _command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    *,
    all_settings: bool = False,
) -> argparse.ArgumentParser:
    # Without abbreviations: `--ttl` must not silently become `--ttl-ms`.
    command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    command.set_defaults(run=run)
    command.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings")
    for setting, field in FIELDS.items() if all_settings else ():
        command.add_argument(
            "--" + setting.replace("_", "-"), metavar="VALUE", help=field.metadata["help"].replace("%", "%%")
        )
    return command
