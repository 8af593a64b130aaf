"""A provisioner server: makes workers for control-plane, as processes of this machine.

It speaks the five calls of docs/provisioners.md with nothing but the standard library, and shows
what such a server has to promise. What it knows is in its state folder, so it may be stopped and
started again at any time; workers go on meanwhile. Each execution has a folder with

    lock        held by the worker (flock) for as long as it or a child of it lives
    pid         written by the worker before its program begins: there is no second start
    output.log  what it prints
    stop        made by the first /terminate; its age decides about SIGKILL

Run it with `PROVISIONER_API_KEY=... python server.py`. A docker image is `file:///absolute/folder`,
with a control-plane.toml that names a command, or with Python functions for the SDK's runner.
"""

import argparse
import fcntl
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Json = dict[str, Any]
PAGE_BYTES = 256 * 1024
MAX_LINES = 250


class RefusedError(Exception):
    """An answer other than 200; the text is its `detail`."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Worker:
    """One execution's folder, and the process that belongs to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lock(self, kind: int) -> int | None:
        """Take the lock; None if another holds it. To be closed, which lets go of it."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def runs(self) -> bool:
        descriptor = self.lock(fcntl.LOCK_SH)
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def pid(self) -> int | None:
        try:
            return int((self.folder / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def was_started(self) -> bool:
        """Say whether there is a process of it, or was; a start that is under way is waited for."""
        if not self.folder.is_dir():
            return False
        descriptor = self._lock_unless_started()
        if descriptor is not None:
            os.close(descriptor)
        return self.pid() is not None

    def _lock_unless_started(self) -> int | None:
        end = time.monotonic() + 5
        while (descriptor := self.lock(fcntl.LOCK_EX)) is None:
            if self.pid() is not None:
                return None
            # Another call starts it, or looks at it, at this moment.
            if time.monotonic() > end:
                raise RefusedError(503, "The worker is being started")
            time.sleep(0.01)
        return descriptor

    def start(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        """Start the program, unless that was done before."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = self._lock_unless_started()
        if descriptor is None:
            return
        try:
            if self.pid() is not None:
                return
            with (self.folder / "output.log").open("wb") as output:
                process = subprocess.Popen(
                    # `exec` keeps pid and lock. If the shell ends before, nothing has been run.
                    ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', self.folder / "pid", *command],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[descriptor],
                    start_new_session=True,
                )
        finally:
            os.close(descriptor)
        threading.Thread(target=process.wait, daemon=True).start()

    def ask_to_stop(self) -> None:
        """Send SIGTERM, once; `enforce` does the rest."""
        while self.runs():
            if self.pid() is None:  # its shell has not come that far yet
                time.sleep(0.01)
                continue
            try:
                (self.folder / "stop").touch(exist_ok=False)
            except FileExistsError:
                return
            # To the program alone: what its children are told is its own business.
            self._signal(os.kill, signal.SIGTERM)

    def enforce(self, *, stop_timeout: float) -> None:
        """Kill a worker that has not stopped in its time."""
        stop = self.folder / "stop"
        if not self.runs():
            stop.unlink(missing_ok=True)
        elif time.time() > stop.stat().st_mtime + stop_timeout:
            self._signal(os.killpg, signal.SIGKILL)

    def _signal(self, send: Callable[[int, int], None], number: int) -> None:
        pid = self.pid()
        if pid is not None:
            with suppress(ProcessLookupError):
                send(pid, number)

    def logs(self, *, offset: int, max_lines: int) -> tuple[list[str], int | None]:
        """Give whole lines from a byte on; of a worker that has ended, the last one as it is."""
        ended = not self.runs()
        try:
            with (self.folder / "output.log").open("rb") as file:
                file.seek(offset)
                data = file.read(PAGE_BYTES)
        except FileNotFoundError:
            return [], None
        lines = re.findall(rb"[^\n]*\n", data)
        rest = data[sum(map(len, lines)) :]
        is_last = ended and len(data) < PAGE_BYTES
        if rest and (is_last or (not lines and len(data) == PAGE_BYTES)):
            lines.append(rest)
        lines = lines[:max_lines]
        texts = [line.rstrip(b"\r\n").decode(errors="replace") for line in lines]
        return texts, offset + sum(map(len, lines))


class Workers:
    """The five calls."""

    def __init__(self, folder: Path, *, stop_timeout: float) -> None:
        self._folder = folder
        self._stop_timeout = stop_timeout
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        threading.Thread(target=self._enforce, daemon=True).start()

    def prepare(self, body: Json) -> Json:
        image = text_of(body, "docker_image")
        command_of(folder_of(image))
        return {"prepared_function_details": {"type": "TEST", "identifier": image}}

    def provision(self, body: Json) -> Json:
        execution_id = text_of(body, "execution_id")
        if not re.fullmatch(r"[A-Za-z0-9-]{1,100}", execution_id):
            raise RefusedError(422, "execution_id must be letters, digits and dashes")
        worker = Worker(self._folder / execution_id)
        # First of all: what the worker was made from may be gone, and the worker still runs.
        if not worker.was_started():
            self._start(worker, body)
        details = {"type": "TEST", "identifier": execution_id, "logs_identifier": execution_id}
        return {"worker_details": details}

    def _start(self, worker: Worker, body: Json) -> None:
        folder = folder_of(text_of(body, "prepared_function_details", "identifier"))
        environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environment["CONTROL_PLANE_PROJECT_FOLDER"] = str(folder)
        wanted = body.get("environment") or {}
        if not isinstance(wanted, dict) or not all(isinstance(v, str) for v in wanted.values()):
            raise RefusedError(422, "environment must be an object of texts")
        environment |= wanted
        worker.start(command_of(folder), folder, environment)

    def terminate(self, body: Json) -> Json:
        self._worker_of(body).ask_to_stop()
        return {}

    def check_status(self, body: Json) -> Json:
        return {"worker_status": "RUNNING" if self._worker_of(body).runs() else "TERMINATED"}

    def get_logs(self, body: Json) -> Json:
        offset = body.get("initial_offset") or "0"
        if not isinstance(offset, str) or not re.fullmatch(r"[0-9]{1,18}", offset):
            raise RefusedError(400, "initial_offset is not one of this server")
        max_lines = body.get("max_lines", MAX_LINES)
        if not isinstance(max_lines, int) or max_lines < 0:
            raise RefusedError(422, "max_lines must be a number, 0 or more")
        lines, following = self._worker_of(body).logs(
            offset=int(offset), max_lines=min(max_lines, MAX_LINES)
        )
        return {"log_lines": lines, "next_offset": None if following is None else str(following)}

    def _worker_of(self, body: Json) -> Worker:
        identifier = text_of(body, "worker_details", "identifier")
        folder = self._folder / identifier
        if not re.fullmatch(r"[A-Za-z0-9-]{1,100}", identifier) or not folder.is_dir():
            raise RefusedError(404, "There is no worker of this name")
        return Worker(folder)

    def _enforce(self) -> None:
        while True:
            for stop in self._folder.glob("*/stop"):
                try:
                    Worker(stop.parent).enforce(stop_timeout=self._stop_timeout)
                except (OSError, ValueError) as error:
                    print(f"{stop}: {error}", file=sys.stderr, flush=True)
            time.sleep(0.1)


def text_of(body: Json, *path: str) -> str:
    value: Any = body
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise RefusedError(422, f"{'.'.join(path)} must be a text")
    return value


def folder_of(image: str) -> Path:
    parts = urlsplit(image)
    folder = Path(unquote(parts.path))
    if parts.scheme != "file" or not folder.is_absolute():
        raise RefusedError(400, "docker_image must be file:///absolute/folder")
    if not folder.is_dir():
        raise RefusedError(400, f"The folder {folder} does not exist")
    return folder


def command_of(folder: Path) -> list[str]:
    try:
        command: list[str] = tomllib.loads((folder / "control-plane.toml").read_text())["command"]
    except FileNotFoundError:
        return [sys.executable, "-u", "-m", "control_plane.runner"]
    except (KeyError, ValueError) as error:
        raise RefusedError(400, f"{folder}/control-plane.toml names no command") from error
    return command


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    workers: Workers
    api_key: str

    def do_POST(self) -> None:
        try:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = 200, self._answer(body)
        except RefusedError as refused:
            status, answer = refused.status, {"detail": refused.detail}
        except Exception as error:  # noqa: BLE001 - whatever it is, the server goes on
            # Worth another try, and nothing of it is anybody else's business.
            print(f"{self.path}: {error!r}", file=sys.stderr, flush=True)
            status, answer = 500, {"detail": "Internal Server Error"}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: bytes) -> Json:
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.api_key}".encode()):
            raise RefusedError(403, "API key is invalid")
        calls = {
            "/prepare": self.workers.prepare,
            "/provision": self.workers.provision,
            "/terminate": self.workers.terminate,
            "/check_status": self.workers.check_status,
            "/get_logs": self.workers.get_logs,
        }
        if self.path not in calls:
            raise RefusedError(404, "Action does not exist")
        try:
            decoded = json.loads(body)
        except ValueError:
            raise RefusedError(422, "The body is not JSON") from None
        if not isinstance(decoded, dict):
            raise RefusedError(422, "The body is not a JSON object")
        return calls[self.path](decoded)

    def log_message(self, *_: object) -> None:
        """One line for each question about a worker would be too many."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    parser = argparse.ArgumentParser(description="A provisioner server for control-plane.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--state-folder", type=Path, default=Path("/var/tmp/external-provisioner"))
    parser.add_argument("--stop-timeout", type=float, default=10, help="seconds before SIGKILL")
    arguments = parser.parse_args()
    key = os.environ.get("PROVISIONER_API_KEY")
    if not key:
        parser.error("the environment variable PROVISIONER_API_KEY is not set")
    Handler.api_key = key
    try:
        server = Server((arguments.host, arguments.port), Handler)
    except (OSError, OverflowError) as error:
        where = f"{arguments.host}:{arguments.port}"
        parser.exit(1, f"{parser.prog}: cannot listen at {where}: {error}\n")
    Handler.workers = Workers(arguments.state_folder, stop_timeout=arguments.stop_timeout)
    with server:
        print(f"listening at http://{arguments.host}:{server.server_port}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
