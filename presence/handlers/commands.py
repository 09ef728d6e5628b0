"""`POST /v1/commands`: commands of clients whose connection cannot carry them, and of beacons."""

from __future__ import annotations

from presence.caller import Caller
from presence.errors import BadRequest
from presence.handlers.base import ClientBodyHandler

MAX_COMMANDS = 50


class CommandsHandler(ClientBodyHandler):
    """Answers an array of replies, 200 also where some of them are errors."""

    plain_text = True

    async def post(self) -> None:
        identity = self.services.auth.client(self.token())
        session_id = self.session_id()
        if session_id is None:
            raise BadRequest("session is missing: it says whose commands these are")
        value = self.read_value()
        commands = value if isinstance(value, list) else [value]
        if not isinstance(value, (list, dict)):
            raise BadRequest("the body must be one command or an array of commands")
        if len(commands) > MAX_COMMANDS:
            raise BadRequest(f"at most {MAX_COMMANDS} commands in one request; none was done")
        replies = await Caller(self.services, identity, session_id).answer(commands)
        self.write_json_text("[" + ",".join(reply.decode() for reply in replies) + "]")
