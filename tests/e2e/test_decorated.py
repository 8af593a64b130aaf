"""A project of decorated functions, as its user has it: written, deployed by command, called.

What each call and each handle does is in `tests.sdk.library`. Here the parts meet: names, versions
and code are those that `control-plane deploy` has put there.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_plane import Client, Function, InvocationFailedError

from tests.support.stack.processes import COMMAND, Json
from tests.support.stack.stack import API_KEY, Stack

WriteProject = Callable[[dict[str, str]], Path]

PROJECT = {
    "main.py": '''
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TypedDict

from control_plane import current, function, progress
from texts.words import count

class Report(TypedDict):
    words: int
    versions: list[str]
    attempt: int
    seconds_left: bool

@function(memory="256 MiB", cpu=0.5)
def report(texts: list[str], *, factor: int = 1) -> Report:
    """Ask children, one of them in another module, and say where all of them ran."""
    words = sum(count.map(texts, ordered=False)) * factor
    progress(len(texts), len(texts), message="counted")
    here = current()
    return Report(
        words=words,
        versions=[here.version, where.call()],
        attempt=here.attempt,
        seconds_left=here.deadline.timestamp() > 0,
    )

@function(memory="256 MiB", cpu=0.5)
def where() -> str:
    return current().version

@function(memory="256 MiB", cpu=0.5, max_concurrency=3)
async def longest(texts: list[str]) -> int:
    return max([n async for n in count.map_async(texts)])

@function(memory="256 MiB", cpu=0.5)
async def spell(word: str) -> AsyncIterator[str]:
    for letter in word:
        yield letter

@function(memory="256 MiB", cpu=0.5)
def fail(name: str) -> None:
    raise LookupError(f"nothing is called {name}")

if __name__ == "__main__":
    there = report.options(project=sys.argv[1])
    print(there.call(["to be", "or not"], factor=2)["words"])
    print(count.options(project=sys.argv[1]).call("a b c"), count("a b"))
''',
    "texts/words.py": """
from control_plane import function

@function(memory="256 MiB", cpu=0.5, max_concurrency=4)
def count(text: str) -> int:
    return len(text.split())
""",
}
NAME = "decorated"


@pytest.fixture
def environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The user's: server and key. Also that of this process, for calls by name."""
    values = {"CONTROL_PLANE_API_URL": stack.caller.url, "CONTROL_PLANE_API_KEY": API_KEY}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return {"PATH": os.environ["PATH"], **values}


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[Client]:
    del environment
    with Client() as client:
        yield client


def said(*command: str | Path, environment: dict[str, str], folder: Path) -> str:
    ended = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_decorated_functions_are_deployed_and_called(
    write_project: WriteProject, environment: dict[str, str], client: Client
) -> None:
    folder = write_project(PROJECT)

    def deploy() -> Json:
        command = (COMMAND, "deploy", ".", "--project", NAME, "--json")
        answer: Json = json.loads(said(*command, environment=environment, folder=folder))
        return answer

    first = deploy()
    assert {each["function_name"]: each["status"] for each in first["functions"]} == dict.fromkeys(
        ["texts.words:count", "report", "where", "longest", "spell", "fail"], "READY"
    )
    # As a program of its own, which imports what it calls.
    printed = said(sys.executable, "main.py", NAME, environment=environment, folder=folder)
    assert printed.splitlines() == ["8", "3 2"]

    (folder / "texts" / "words.py").write_text(
        PROJECT["texts/words.py"].replace("len(text.split())", "1000")
    )
    second = deploy()

    # Children are of their parent's version, whatever is the latest one.
    for version, words in ((first, 4), (second, 2000)):
        version_id = str(version["version_id"])
        call = Function.from_name(NAME, "report", version_id).start(["to be", "or not"])
        assert call.result(timeout=90) == {
            "words": words,
            "versions": [version_id, version_id],
            "attempt": 1,
            "seconds_left": True,
        }
        assert Function.from_name(NAME, "report").invocation(call.id).path == call.path
        assert call.status().progress == {"done": 2, "total": 2, "message": "counted"}
        children = client.iterate_invocations(
            NAME, "texts.words:count", version=version_id, parent=("report", call.id)
        )
        assert [each.phase for each in children] == ["SUCCEEDED", "SUCCEEDED"]
    assert Function.from_name(NAME, "texts.words:count").call("a") == 1000
    assert Function.from_name(NAME, "longest", first["version_id"]).call(["a", "a b"]) == 2

    spelling = Function.from_name(NAME, "spell").start("abc")
    assert list(spelling.stream())[-1] == "c"
    assert spelling.result() == "c"

    with pytest.raises(InvocationFailedError) as caught:
        Function.from_name(NAME, "fail").call("Rumpelstiltskin")
    assert caught.value.error == "LookupError: nothing is called Rumpelstiltskin"
    head, place, line, last = caught.value.remote_traceback.splitlines()
    assert head == "Traceback (most recent call last):"
    assert place.endswith(", in fail"), place
    assert "main.py" in place
    assert line.strip() == 'raise LookupError(f"nothing is called {name}")'
    assert last == caught.value.error
