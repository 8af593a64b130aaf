"""Worker tokens: a credential that is good for one execution.

A token is derived from a server secret and the execution id, so a repeated provisioning hands out
the same one, and no token is stored. Whether the execution is still open is for the called endpoint
to judge. Which secret that is: `registry.queries.token_secret`.
"""

import hashlib
import hmac
import re

from core.ids import ExecutionId

_PURPOSE = b"control-plane execution token v1:"
_SHAPE = re.compile(r"(exe-[0-9a-f]{32})\.[0-9a-f]{64}")


class ExecutionTokens:
    """Derives and verifies worker tokens of the form `exe-<32 hex>.<64 hex>`.

    Args:
        secret: what tokens are derived from.
        *accepted: secrets whose tokens are good as well.
    """

    def __init__(self, secret: str, *accepted: str) -> None:
        self._secrets = [each.encode() for each in (secret, *accepted)]

    def derive(self, execution_id: ExecutionId) -> str:
        """Give the token of an execution; the same one at every call."""
        return _token(self._secrets[0], execution_id)

    def verify(self, token: str) -> ExecutionId | None:
        """Give the execution that a token was derived for, or None for any other text."""
        execution_id = execution_named_in(token)
        if execution_id is None:
            return None
        # All are compared, so that the time does not tell which one it was.
        matches = [
            hmac.compare_digest(token, _token(secret, execution_id)) for secret in self._secrets
        ]
        return execution_id if any(matches) else None


def execution_named_in(token: str) -> ExecutionId | None:
    """Give the execution that a text names if it has the form of a token, whether good or not."""
    shape = _SHAPE.fullmatch(token)
    return None if shape is None else ExecutionId(shape.group(1))


def secret_derived_from(api_key: str) -> str:
    """Give the secret that servers used before the registry kept one.

    Who holds a worker's token can try keys against it without asking the server.
    """
    purpose = b"control-plane worker token secret"
    return hmac.new(api_key.encode(), purpose, hashlib.sha256).hexdigest()


def _token(secret: bytes, execution_id: ExecutionId) -> str:
    mac = hmac.new(secret, _PURPOSE + execution_id.encode(), hashlib.sha256)
    return f"{execution_id}.{mac.hexdigest()}"
