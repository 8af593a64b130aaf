"""The HTTP of the external provisioner: one call, and what its failures mean."""

import asyncio
import hashlib
import ipaddress
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import httpx
import structlog
from pydantic import BaseModel, SecretStr, ValidationError

from core.clock import utc_now
from core.ids import VersionId
from provisioners.base import ProvisionerError, UnrecoverableProvisioningError
from provisioners.external.protocol import ErrorAnswer

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
"""What a server asks for beyond this is not granted."""
MAX_ANSWER_BYTES: Final = 16 * 2**20
"""Longer answers count as unreadable."""
_MAX_ERROR_ANSWER_BYTES: Final = 64 * 2**10
_MAX_QUOTED_CHARACTERS: Final = 500
_SECRET_ENDINGS: Final = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
_PASSING: Final = frozenset({408, 425, 429})
"""Of the 4xx those that say: not now."""
_OUR_KEY_IS_WRONG: Final = frozenset({401, 403})
_UNASKED: Final = _OUR_KEY_IS_WRONG | {407}
"""Of the 4xx those of a server that has not looked at the request."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SAME_REQUEST: Final = frozenset({307, 308})
"""Of the redirects those that ask for the same method and body again (RFC 9110, 15.4)."""
_MOST_REDIRECTS: Final = 5
_CONNECTIONS: Final = httpx.Limits(
    # Shorter than servers keep idle connections open: fewer requests meet a closing one.
    max_connections=500,
    max_keepalive_connections=100,
    keepalive_expiry=3,
)


class UnclearAnswerError(ProvisionerError):
    """An answer that is neither yes nor no: a worker may have been made, now or earlier.

    It may come from another program (a proxy, another server at a wrong address), or from a server
    that does not let us in. Both are for an operator to mend, and then the same request will do.
    """


class UnreadableAnswerError(UnclearAnswerError):
    """The server says that it has done it, but what it says about it cannot be read."""


A = TypeVar("A", bound=BaseModel)
_log = structlog.get_logger(__name__)


class ExternalClient:
    """Speaks to one server. Open during the life of the provisioner."""

    def __init__(self, url: str, key: SecretStr, *, timeout: float) -> None:
        self._url = httpx.URL(url)
        self._key = key.get_secret_value()
        self._timeout = timeout
        self._http: httpx.AsyncClient | None = None

    def open(self) -> None:
        """Make the connection pool; nothing is contacted."""
        if self._url.raw_path not in {b"", b"/"} or self._url.fragment:
            # Servers for this protocol rely on it: /prepare and the others are at the root.
            _log.warning(
                "provisioner_url_path_dropped",
                detail="PROVISIONER_API_URL has a path, a query or a fragment; it is not used",
                host=self._url.host,
            )
        if self._url.scheme == "http" and not _is_loopback(self._url.host):
            _log.warning(
                "provisioner_is_asked_in_clear_text",
                detail="PROVISIONER_API_URL begins with http: whoever is in between reads "
                "PROVISIONER_API_KEY and the workers' tokens. Use https",
                host=self._url.host,
            )
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=self._timeout,
            limits=_CONNECTIONS,
            # A request holds a worker's token: `_answer` follows within this server alone.
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def ask(
        self,
        verb: str,
        body: BaseModel,
        shape: type[A],
        *,
        key: str,
        secrets: Sequence[str] = (),
    ) -> A:
        """Make one call.

        Args:
            verb: last part of the address, e.g. `prepare`.
            body: the request.
            shape: what the answer must be.
            key: the Idempotency-Key.
            secrets: texts that must not appear in an error, besides the API key.

        Raises:
            UnrecoverableProvisioningError: the server refuses this request (4xx, with a detail).
            UnclearAnswerError: it cannot be known whether the server has done it.
            ProvisionerError: it could not be asked, or cannot answer now.
        """
        if self._http is None:
            raise ProvisionerError("The external provisioner has not been started")
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        address = self._url.copy_with(path=f"/{verb}", query=None, fragment=None)
        request = self._http.build_request(
            "POST", address, content=body.model_dump_json(), headers=headers
        )
        try:
            async with asyncio.timeout(self._timeout):
                status, content, answered = await self._answer(self._http, request)
        except (TimeoutError, httpx.TimeoutException) as error:
            message = f"The provisioner has not answered /{verb} within {self._timeout:g} s"
            raise ProvisionerError(message) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            text = self._quote(f"{type(error).__name__}: {error}", secrets)
            raise ProvisionerError(f"The provisioner cannot be asked /{verb}: {text}") from error
        where = f"/{verb} (Status code: {status})"
        if 200 <= status < 300:
            return _read(content, shape, where)
        if status in _REDIRECTS:
            target = self._quote(_origin(address, answered.get("Location", "")), secrets)
            raise UnclearAnswerError(
                f"The provisioner has redirected {where} to {target}, which is not followed: "
                "PROVISIONER_API_URL must be the address of the provisioner itself"
            )
        detail = _detail_of(content)
        told = "it gives no detail" if detail is None else self._quote(detail, secrets)
        if status in _OUR_KEY_IS_WRONG:
            _log.error("provisioner_does_not_let_us_in", verb=verb, status=status, detail=told)
            message = f"The provisioner does not accept our PROVISIONER_API_KEY at {where}: {told}"
            raise UnclearAnswerError(message)
        if 400 <= status < 500 and status not in _PASSING:
            refused = f"The provisioner has refused {where}: {told}"
            if status in _UNASKED or detail is None:
                raise UnclearAnswerError(refused)
            raise UnrecoverableProvisioningError(refused)
        raise ProvisionerError(
            f"The provisioner cannot do {where}: {told}", retry_after=_retry_after(answered)
        )

    async def _answer(
        self, http: httpx.AsyncClient, request: httpx.Request
    ) -> tuple[int, bytes | None, httpx.Headers]:
        """Send a request; a redirect of the same request within the same server is followed."""
        for _ in range(_MOST_REDIRECTS):
            status, content, headers = await _send(http, request)
            location = headers.get("Location", "")
            is_here = _origin(request.url, location) == _origin(request.url, "")
            if status not in _SAME_REQUEST or not location or not is_here:
                break
            there = request.url.join(location).copy_with(fragment=None)
            request = http.build_request(
                "POST", there, content=request.content, headers=request.headers
            )
        return status, content, headers

    def _quote(self, text: str, secrets: Sequence[str]) -> str:
        """Give a foreign text in one bounded line, without our secrets."""
        for secret in (self._key, *secrets):
            if secret:
                text = text.replace(secret, "[secret]")
        line = " ".join(text.split())
        line = "".join(letter for letter in line if letter.isprintable())
        cut = len(line) > _MAX_QUOTED_CHARACTERS
        return f"{line[:_MAX_QUOTED_CHARACTERS]}..." if cut else line


def key_of_function(version_id: VersionId, function_name: str) -> str:
    """Give the Idempotency-Key of `/prepare`: a function's name is no header, its digest is."""
    digest = hashlib.sha256(function_name.encode()).hexdigest()[:32]
    return f"{version_id}-{digest}-prepare"


def secrets_in(environment: dict[str, str]) -> list[str]:
    """Give the values that an error must not repeat, by the names of their variables."""
    return [value for name, value in environment.items() if name.endswith(_SECRET_ENDINGS)]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _origin(base: httpx.URL, location: str) -> str:
    """Give the server of an address: no path, no query and no password, which may be secret."""
    try:
        url = base.join(location)
        return str(httpx.URL(scheme=url.scheme, host=url.host, port=url.port))
    except httpx.InvalidURL:
        return "an address that cannot be read"


async def _send(
    http: httpx.AsyncClient, request: httpx.Request
) -> tuple[int, bytes | None, httpx.Headers]:
    """Give status, body (None if it is too long), and headers."""
    response = await http.send(request, stream=True)
    try:
        succeeded = response.is_success
        limit = MAX_ANSWER_BYTES if succeeded else _MAX_ERROR_ANSWER_BYTES
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > limit:
                return response.status_code, None, response.headers
    finally:
        await response.aclose()
    return response.status_code, bytes(content), response.headers


def _read(content: bytes | None, shape: type[A], where: str) -> A:
    try:
        return shape.model_validate(json.loads(content or b""))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        why = f"{field}: {problem['msg']}" if field else problem["msg"]
    except (ValueError, RecursionError):
        why = "it is too long" if content is None else "it is not JSON"
    message = f"The provisioner's answer to {where} cannot be used: {why}"
    raise UnreadableAnswerError(message)


def _detail_of(content: bytes | None) -> str | None:
    try:
        return ErrorAnswer.model_validate(json.loads(content or b"")).detail
    except (ValueError, RecursionError):
        return None


def _retry_after(headers: httpx.Headers) -> float | None:
    """Read `Retry-After`: seconds or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = (_in_utc(when) - utc_now()).total_seconds()
    return min(seconds, LONGEST_RETRY_AFTER_SECONDS) if seconds > 0 else None


def _in_utc(when: datetime) -> datetime:
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when
