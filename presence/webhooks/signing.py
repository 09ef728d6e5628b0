"""The headers by which a receiver knows that a batch is ours: Standard Webhooks, version 1, symmetric.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence


def signed(secrets: Sequence[bytes], webhook_id: str, instant_s: int, body: bytes) -> dict[str, str]:
    """The three headers; one signature for each secret, so that a receiver with either of them is content."""
    text = f"{webhook_id}.{instant_s}.".encode() + body
    signatures = [f"v1,{b64encode(hmac.digest(secret, text, 'sha256')).decode()}" for secret in secrets]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(instant_s),
        "webhook-signature": " ".join(signatures),
    }
