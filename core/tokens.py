"""Worker tokens: a credential that is good for one execution.

A token is derived from a server secret and the execution id, so a repeated provisioning hands out
the same one and nothing secret is stored. The API process verifies it without the database; whether
the execution is still open is for the called endpoint to judge.
"""

import hashlib
import hmac

from core.ids import ExecutionId

_PURPOSE = b"control-plane execution token v1:"


class ExecutionTokens:
    """Derives and verifies worker tokens of the form `exe-<32 hex>.<64 hex>`."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def derive(self, execution_id: ExecutionId) -> str:
        """Give the token of an execution; the same one at every call."""
        mac = hmac.new(self._secret, _PURPOSE + execution_id.encode(), hashlib.sha256)
        return f"{execution_id}.{mac.hexdigest()}"

    def verify(self, token: str) -> ExecutionId | None:
        """Give the execution that a token was derived for, or None for any other text."""
        execution_id, separator, _ = token.partition(".")
        if not separator or not token.isascii():
            return None
        expected = self.derive(ExecutionId(execution_id))
        return ExecutionId(execution_id) if hmac.compare_digest(token, expected) else None
