"""The HTTP requests of a deployment.

All of them may be repeated. A version whose registration was answered to nobody is registered
again: nobody calls the first one.
"""

import time
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

_TRIES = 6
_FIRST_PAUSE = 0.25
_SECONDS = 60.0


class RefusedError(Exception):
    """The server has refused a request.

    Attributes:
        status: the HTTP status; None if it has not answered at all.
    """

    def __init__(self, message: str, *, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class DeploymentApi:
    """Speaks to a server with the API key.

    Args:
        url: the server's address.
        key: the API key.
    """

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"}, timeout=_SECONDS, follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def request(
        self, method: str, *parts: str, json: object = None, content: bytes | None = None
    ) -> Any:  # noqa: ANN401 - any JSON
        """Send a request until it is answered, a few times; give the answer's JSON.

        Args:
            method: of HTTP.
            *parts: names that make up the path.
            json: body, as JSON.
            content: body, as it is.

        Raises:
            RefusedError: the server says no, or nothing.
        """
        url = "/".join([self._url, *(quote(part, safe="") for part in parts)])
        pause = _FIRST_PAUSE
        for number in range(_TRIES):
            last = number == _TRIES - 1
            try:
                answer = self._http.request(method, url, json=json, content=content)
            except httpx.TransportError as error:
                if last:
                    message = f"{self._url} does not answer: {error}"
                    raise RefusedError(message, status=None) from None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise RefusedError(f"{url}: {error}", status=None) from None
            else:
                if answer.is_success:
                    return answer.json()
                if last or answer.status_code not in {429, 502, 503, 504}:
                    raise RefusedError(_detail_of(answer), status=answer.status_code)
            time.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")


def _detail_of(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return (
            f"{answer.request.method} {answer.request.url} was answered with {answer.status_code}"
        )
    if isinstance(detail, list):
        problems = [
            f"{'.'.join(str(part) for part in problem['loc'][1:])}: {problem['msg']}"
            for problem in detail
        ]
        return "; ".join(problems)
    return str(detail)
