"""Whether the API may serve with its keys: those that can be guessed are for this machine only."""

import ipaddress
import socket

import structlog

from core.settings import ApiKeySettings
from core.weak_keys import why_weak

logger = structlog.get_logger(__name__)


class InsecureKeyError(Exception):
    """A key can be guessed, and others can reach the API. The text names its variable."""


def check_keys(keys: ApiKeySettings, listener: socket.socket) -> None:
    """Refuse keys that can be guessed, unless only this machine reaches the API or it is wanted.

    Args:
        keys: the API keys and the secret for worker tokens.
        listener: where the API listens.

    Raises:
        InsecureKeyError: one can be guessed; the text says how to make a better one.
    """
    for name in (
        "control_plane_api_key",
        "control_plane_api_key_previous",
        "control_plane_token_secret",
    ):
        value = getattr(keys, name)
        reason = None if value is None else why_weak(value.get_secret_value())
        if reason is None:
            continue
        variable = name.upper()
        if not (keys.control_plane_insecure_key or _is_for_this_machine_only(listener)):
            raise InsecureKeyError(
                f"{variable} {reason}, and others than this machine can reach the API. Make one "
                "with `openssl rand -hex 32` or `python3 -c 'import secrets; "
                "print(secrets.token_hex(32))'`, listen at 127.0.0.1 only, or set "
                "CONTROL_PLANE_INSECURE_KEY=1 to take it all the same"
            )
        logger.warning("key_can_be_guessed", variable=variable, reason=reason)


def _is_for_this_machine_only(listener: socket.socket) -> bool:
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
