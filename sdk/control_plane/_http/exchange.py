"""How a request gets its answer: tries, pauses, and what an answer means.

Nothing here sends or sleeps. Each function is a generator that yields what is to be done next, a
`Send` or a `Pause`, and is told what came of it. A client does these things: the plain one, or the
async one in an event loop. So nothing about repetition and waiting is written twice. A generator
that has many results yields each in a `Give`.
"""

import json
import random
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from control_plane import errors
from control_plane._http.requests import Request, get_version
from control_plane.models import Json, Version

T = TypeVar("T")

_REPEATED_STATUSES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Send:
    """Send this request once."""

    request: Request[Any]


@dataclass(frozen=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Give(Generic[T]):
    """Hand this result to the caller, who may take a while before asking for the next one."""

    value: T


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server answered to one try."""

    status: int
    body: bytes
    retry_after: float = 0.0
    """Seconds that the server asks to be left alone."""
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class NoAnswer:
    """One try ended without an answer."""

    reason: str
    may_have_arrived: bool
    """False if the request has certainly not reached the server."""


Step = Send | Pause
Reply = Answer | NoAnswer | None
Steps = Generator[Step, Reply, T]
"""What leads to one result."""
Stream = Generator[Step | Give[T], Reply, None]
"""What leads to many results."""


class Exchange(Protocol):
    """Gives the steps of one request; see `BaseClient.exchange`."""

    def __call__(self, request: Request[T], /) -> Steps[T]:
        """Give the steps."""
        ...


class RetryLimit:
    """How long a client goes on trying a request that gets no useful answer.

    Attributes:
        seconds: from the first try to the last one at most.
        has_had_an_answer: until then the address may be wrong, so the client gives up early.
    """

    _BEFORE_THE_FIRST_ANSWER = 5.0

    def __init__(self, seconds: float, *, has_had_an_answer: bool = False) -> None:
        self.seconds = seconds
        self.has_had_an_answer = has_had_an_answer

    @property
    def without_answer(self) -> float:
        """Seconds for which a server that does not answer at all is tried."""
        if self.has_had_an_answer:
            return self.seconds
        return min(self.seconds, self._BEFORE_THE_FIRST_ANSWER)


def exchange(request: Request[T], *, server: str, limit: RetryLimit) -> Steps[T]:
    """Send a request until there is an answer that counts.

    A connection that fails and an answer 429, 502, 503 or 504 are followed by another try, after a
    pause that grows and that is no shorter than the server asks for.

    Raises:
        ServerConnectionError: there was no answer, for as long as `limit` allows.
        ServerUnavailableError: there was no other answer than these, for as long.
        ApiError: the server refuses.
    """
    began = time.monotonic()
    tries = 0
    may_have_arrived = False
    while True:
        reply = yield Send(request)
        tries += 1
        pause = min(5.0, 0.1 * 2.0 ** min(tries - 1, 10)) * random.uniform(0.5, 1)  # noqa: S311 - spreads clients
        passed = time.monotonic() - began
        if isinstance(reply, Answer):
            limit.has_had_an_answer = True
            if reply.status not in _REPEATED_STATUSES:
                if reply.status == 409 and may_have_arrived and request.after_conflict is not None:
                    return (yield from exchange(request.after_conflict, server=server, limit=limit))
                return _read(request, reply)
            may_have_arrived = may_have_arrived or reply.status in (502, 504)
            pause = max(pause, min(reply.retry_after, 60.0))
            if passed + pause > limit.seconds or (may_have_arrived and not request.repeatable):
                raise _refusal(request, reply)
        else:
            assert isinstance(reply, NoAnswer)  # noqa: S101 - the other side's promise
            may_have_arrived = may_have_arrived or reply.may_have_arrived
            if may_have_arrived and not request.repeatable:
                raise errors.ServerConnectionError(
                    f"The connection to {server} was lost before the answer came; it is unknown "
                    f"whether {_name(request)} was done ({reply.reason})"
                )
            if passed + pause > limit.without_answer:
                tried = "" if tries == 1 else f" in {tries} tries within {passed:.0f} s"
                raise errors.ServerConnectionError(
                    f"{server} does not answer{tried}: {reply.reason}"
                )
        yield Pause(pause)


def resolve_version(
    send: Callable[[Request[Version]], Steps[Version]], project: str, version: str
) -> Steps[str]:
    """Give a version's id; asks the server only if it is `latest`.

    Raises:
        What `exchange` raises.
    """
    if version.lower() != "latest":
        return version
    return (yield from send(get_version(project, version))).version_id


def _read(request: Request[T], answer: Answer) -> T:
    if not 200 <= answer.status < 300:
        raise _refusal(request, answer)
    try:
        return request.read(_content(answer) or {})
    except (KeyError, TypeError, ValueError) as error:
        raise errors.ApiError(
            answer.status,
            "The answer cannot be read. Is this the address of a control plane? "
            f"{type(error).__name__}: {error}",
            request=_name(request),
            request_id=answer.request_id,
        ) from None


def _content(answer: Answer) -> Json | None:
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _name(request: Request[Any]) -> str:
    return f"{request.method} {request.path.partition('?')[0]}"


def _refusal(request: Request[Any], answer: Answer) -> errors.ApiError:
    detail = (_content(answer) or {}).get("detail")
    if isinstance(detail, list):
        text = "; ".join(_problems(detail))
    elif detail is not None:
        text = str(detail)
    elif 300 <= answer.status < 400:
        # Followed, it would take the key to where another server says.
        text = "The server redirects elsewhere, which is not followed: name its address itself"
    else:
        text = answer.body[:200].decode(errors="replace").strip() or "(no text)"
    kind: type[errors.ApiError] = errors.ApiError
    match answer.status:
        case 401 | 403:
            kind = errors.AuthenticationError
        case 404:
            kind = errors.NotFoundError
        case 409:
            kind = errors.ConflictError
        case 400 | 413 | 422:
            kind = errors.BadRequestError
        case status if status in _REPEATED_STATUSES:
            kind = errors.ServerUnavailableError
    return kind(answer.status, text, request=_name(request), request_id=answer.request_id)


def _problems(details: Iterable[object]) -> Iterable[str]:
    for problem in details:
        if isinstance(problem, dict):
            place = ".".join(str(part) for part in problem.get("loc", ()))
            yield f"{place}: {problem.get('msg')}"
        else:
            yield str(problem)
