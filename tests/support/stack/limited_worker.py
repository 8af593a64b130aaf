"""A worker program that records when it runs, and keeps still for a kill where its input says so.

Run as `python -I -S limited_worker.py`. Its input is a JSON object: `marks`, a file to which each
step is added as a line; `seconds`, how long it works; `doom`, for each attempt null,
`before its start` or `while it runs`: then it goes on asking or reporting until somebody kills it.
"""

import http.client
import json
import os
import sys
import time
from urllib.parse import quote, urlsplit

_PATIENCE_SECONDS = 60


def _execution_path() -> str:
    parts = ("PROJECT_NAME", "VERSION_ID", "FUNCTION_NAME", "INVOCATION_ID", "EXECUTION_ID")
    values = (quote(os.environ[f"CONTROL_PLANE_{name}"], safe="") for name in parts)
    return "/projects/{}/versions/{}/functions/{}/invocations/{}/executions/{}".format(*values)


def main() -> int:
    address = urlsplit(os.environ["CONTROL_PLANE_API_URL"])
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    path = _execution_path()

    def call(method: str, verb: str, body: object = None) -> dict[str, object]:
        headers = {"Authorization": f"Bearer {os.environ['CONTROL_PLANE_API_KEY']}"}
        connection.request(method, path + verb, json.dumps(body), headers)
        answer = connection.getresponse()
        content: dict[str, object] = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{method} {verb}: {answer.status} {content}")
        return content

    execution = call("GET", "")
    task = json.loads(str(execution["input"]))
    attempt = int(str(execution["attempt"]))
    doom = task["doom"][attempt - 1] if attempt <= len(task["doom"]) else None
    marks = os.open(task["marks"], os.O_WRONLY | os.O_APPEND)

    def mark(step: str) -> None:
        line = [step, time.monotonic(), os.environ["CONTROL_PLANE_EXECUTION_ID"]]
        # One write to a file that is open for appending: lines of many workers do not mix.
        os.write(marks, json.dumps(line).encode() + b"\n")

    mark("started")
    patience = time.monotonic() + _PATIENCE_SECONDS
    if doom == "before its start":
        mark("doomed")
        while time.monotonic() < patience:
            call("GET", "")
        return 1
    call("PUT", "/start")
    if doom == "while it runs":
        mark("doomed")
        while time.monotonic() < patience:
            call("PUT", "/update", {"latest_output": "still here"})
        return 1
    time.sleep(task["seconds"])
    mark("ended")
    call("PUT", "/finish", {"outcome": "SUCCEEDED", "final_output": "null"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
