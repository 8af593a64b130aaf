"""Functions that record what they do, beside and apart from what the control plane records.

A task is a JSON object: `marks` is the folder of the records, `key` names the task, and `acts` says
what each execution does, in turn (see `tests.proofs.chaos.tasks`).

The locks are the kernel's: they are free when, and only when, the process is gone.
"""

import fcntl
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from control_plane import Interrupted

Json = dict[str, Any]

_PATIENCE_SECONDS = 900
_HELD: list[int] = []
"""Locks that this process holds until its end."""


class Record:
    """What this execution leaves behind."""

    def __init__(self, task: Json) -> None:
        self._folder = Path(task["marks"])
        self.execution_id = os.environ["CONTROL_PLANE_EXECUTION_ID"]
        invocation_id = os.environ["CONTROL_PLANE_INVOCATION_ID"]
        self._marks = self._folder / invocation_id
        if not _try_lock(self._folder / f"{invocation_id}.lock"):
            self.breach(f"two executions of {invocation_id} ran at the same time")
        begun = [mark["execution"] for mark in self._read() if mark["what"] == "begun"]
        if self.execution_id in begun:
            self.breach(f"{self.execution_id} was begun twice")
        self.number = len(begun)
        """How many executions of this invocation have begun before, 0 for the first."""
        self.mark("begun", key=task["key"])

    def _read(self) -> list[Json]:
        try:
            return [json.loads(line) for line in self._marks.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def mark(self, what: str, **facts: object) -> None:
        mark = {"what": what, "execution": self.execution_id, "at": time.time(), **facts}
        _append(self._marks, mark)

    def breach(self, text: str) -> None:
        _append(self._folder / "breaches", {"text": text, "execution": self.execution_id})

    def take_slot(self, slots: int) -> None:
        """Hold one of the function's slots until the end of this process."""
        name = os.environ["CONTROL_PLANE_FUNCTION_NAME"]
        if not any(_try_lock(self._folder / f"slot-{name}-{n}.lock") for n in range(slots)):
            self.breach(f"more than {slots} workers of {name} ran at the same time")


def _append(path: Path, record: Json) -> None:
    # One write to a file that is open for appending: lines of many workers do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(record).encode() + b"\n")
    finally:
        os.close(descriptor)


def _try_lock(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _HELD.append(descriptor)
    return True


def _begin(task: Json) -> tuple[Record, Json]:
    """Record the beginning, print, work; returns what is to happen then."""
    record = Record(task)
    if record.number >= len(task["acts"]):
        record.breach(f"execution {record.number + 1} of {len(task['acts'])}")
        raise RuntimeError("there should be no such execution")
    act: Json = task["acts"][record.number]
    if "slots" in task:
        record.take_slot(task["slots"])
    for number in range(act.get("lines", 0)):
        print(f"{task['key']} line {number} of execution {record.number}")
    sys.stdout.flush()
    record.mark("printed", lines=act.get("lines", 0))
    time.sleep(act.get("seconds", 0))
    return record, act


def _end(record: Record, act: Json) -> None:
    record.mark("ends", how=act["end"])
    if act["end"] == "vanish":
        os.kill(os.getpid(), signal.SIGKILL)
    if act["end"] == "fail":
        raise ValueError(act["error"])


def work(task: Json) -> Json:
    """Return what was asked for, fail, or vanish."""
    record, act = _begin(task)
    _end(record, act)
    result: Json = task["result"]
    return result


limited = once = work


def steps(task: Json) -> Iterator[Json]:
    """Yield one value after another; each is acknowledged before the next is made."""
    record, act = _begin(task)
    for step in range(1, act["steps"] + 1):
        yield {"step": step, "payload": task["result"]}
        record.mark("acknowledged", step=step)
        time.sleep(act["pause"])
    _end(record, act)


def endless(task: Json) -> None:
    """Run until the control plane ends it."""
    record, act = _begin(task)
    try:
        while True:
            time.sleep(0.5)
    except Interrupted as told:
        record.mark("told", by=type(told).__name__)
        # Some take their time with it, and some more than they are given.
        time.sleep(act.get("clean_up", 0))
        raise


brief = endless


def fan(task: Json) -> list[Json]:
    """Call another function several times, and return what the calls have given."""
    record, _ = _begin(task)
    api = _Api(record)
    children = [
        api.start(child["function"], child["task"], key=child["task"]["key"])
        for child in task["children"]
    ]
    return [api.result(path) for path in children]


class _Api:
    """The API, as a function uses it with its own token."""

    def __init__(self, record: Record) -> None:
        address = urlsplit(os.environ["CONTROL_PLANE_API_URL"])
        self._connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=10
        )
        self._record = record
        project, version = (
            quote(os.environ[f"CONTROL_PLANE_{name}"], safe="")
            for name in ("PROJECT_NAME", "VERSION_ID")
        )
        self._functions = f"/projects/{project}/versions/{version}/functions"

    def start(self, function: str, task: Json, *, key: str) -> str:
        path = f"{self._functions}/{function}/invocations"
        parent = {
            "function_name": os.environ["CONTROL_PLANE_FUNCTION_NAME"],
            "invocation_id": os.environ["CONTROL_PLANE_INVOCATION_ID"],
        }
        body = {"input": json.dumps([task]), "parent_invocation": parent}
        answer = self._call("POST", path, body, {"Idempotency-Key": key})
        return f"{path}/{answer['invocation_id']}"

    def result(self, path: str) -> Json:
        while True:
            seen = self._call("GET", f"{path}?wait=5")
            if seen["invocation_status"] == "TERMINATED":
                output = json.loads(seen["executions"][-1]["output"])
                return {"phase": seen["phase"], "output": output}

    def _call(
        self, method: str, path: str, body: object = None, headers: Json | None = None
    ) -> Json:
        """Ask until there is an answer, as a careful client does."""
        key = os.environ["CONTROL_PLANE_API_KEY"]
        all_headers = {"Authorization": f"Bearer {key}", **(headers or {})}
        patience = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                content = None if body is None else json.dumps(body)
                self._connection.request(method, path, content, all_headers)
                answer = self._connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
            else:
                if answer.status == 200:
                    seen: Json = json.loads(text)
                    return seen
                if answer.status != 503:
                    self._record.breach(f"{method} {path}: {answer.status} {text[:300]!r}")
                    raise RuntimeError(f"{method} {path}: {answer.status}")
            if time.monotonic() > patience:
                raise TimeoutError(f"{method} {path}: no answer")
            time.sleep(0.2)
