"""Logs of the external provisioner: offsets of the server's own, or none; limits."""

import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from provisioners.conformance import NoBundles
from provisioners.external.provisioner import ExternalProvisioner
from tests.support.provisioners.external_requests import WORKER, provisioner_at
from tests.support.provisioners.http_peer import Answer, Call, HttpPeer


def logs(lines: list[str], next_offset: str | None) -> Answer:
    return Answer(body={"log_lines": lines, "next_offset": next_offset})


def serving(lines: Callable[[], list[str]], *, cursors: bool) -> Callable[[Call], Answer]:
    """A server that pages through lines by their index, with a cursor at the end or without."""

    def behave(call: Call) -> Answer:
        start = int(call.body["initial_offset"] or 0)
        everything = lines()
        page = everything[start : start + call.body["max_lines"]]
        end = start + len(page)
        at_the_end = end == len(everything)
        return logs(page, None if at_the_end and not cursors else str(end))

    return behave


async def copy(external: ExternalProvisioner, *, offset: str = "") -> tuple[list[str], str]:
    """Read as the activity does: until a page is empty and its offset has not moved."""
    copied: list[str] = []
    while True:
        page = await external.read_logs(WORKER, offset=offset, ended=False)
        if not page.lines and page.next_offset == offset:
            return copied, offset
        copied += page.lines
        offset = page.next_offset


@pytest.mark.parametrize("cursors", [True, False])
async def test_a_growing_log_is_copied_once(
    peer: HttpPeer, external: ExternalProvisioner, cursors: bool
) -> None:
    written: list[str] = []
    peer.behave = serving(lambda: written, cursors=cursors)
    offset = ""
    copied: list[str] = []
    for count in (0, 1, 3, 200, 250, 251, 900, 0):
        written += [f"line {len(written) + i}" for i in range(count)]
        lines, offset = await copy(external, offset=offset)
        copied += lines
        assert copied == written


async def test_a_server_that_always_gives_everything_is_read_once(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    written = ["a", "b"]
    peer.behave = lambda _: logs(written, None)

    first, offset = await copy(external)
    written += ["c", "d"]
    second, _ = await copy(external, offset=offset)

    assert (first, second) == (["a", "b"], ["c", "d"])


async def test_pages_that_become_smaller_repeat_nothing(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.script["get_logs"] = [logs(["a", "b", "c"], None)]
    first = await external.read_logs(WORKER, offset="", ended=False)
    peer.behave = serving(lambda: ["a", "b", "c", "d", "e"], cursors=True)
    peer.script["get_logs"] = [logs(["a", "b"], "2"), logs(["c", "d"], "4")]

    rest, _ = await copy(external, offset=first.next_offset)

    assert (first.lines, rest) == (["a", "b", "c"], ["d", "e"])


async def test_empty_pages_are_passed_and_leave_the_offset(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.script["get_logs"] = [logs([], "1"), logs([], "2"), logs(["late"], "3")]
    peer.behave = lambda call: logs([], call.body["initial_offset"])

    lines, _ = await copy(external)

    assert lines == ["late"]


async def test_a_server_that_counts_up_for_ever_is_left(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.behave = lambda call: logs([], str(int(call.body["initial_offset"] or 0) + 1))

    lines, offset = await copy(external)

    assert (lines, offset) == ([], "")


async def test_what_postgres_does_not_store_is_replaced(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.script["get_logs"] = [
        Answer(
            raw=rb'{"log_lines": ["a\u0000b", "\ud800c", "\ud83d\ude00", "\u00e4"],'
            rb' "next_offset": "\u0000x"}'
        )
    ]
    peer.behave = lambda call: logs([], call.body["initial_offset"])

    lines, offset = await copy(external)

    assert lines == ["a\ufffdb", "\ufffdc", "\U0001f600", "ä"]
    assert offset.isascii()
    assert offset.isprintable()
    assert peer.calls[-1].body["initial_offset"] == "\0x"


async def test_long_lines_come_in_pieces(peer: HttpPeer, external: ExternalProvisioner) -> None:
    line = "ä" * 100_000
    peer.script["get_logs"] = [logs([line, "", "short"], "1")]
    peer.behave = lambda call: logs([], call.body["initial_offset"])

    lines, _ = await copy(external)

    assert lines[-2:] == ["", "short"]
    pieces = lines[:-2]
    assert "".join(pieces) == line
    assert max(len(piece.encode()) for piece in pieces) <= 64 * 1024


async def test_a_page_of_empty_lines_is_bounded(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.behave = lambda _: logs([""] * 25_000 + ["last"], None)

    page = await external.read_logs(WORKER, offset="", ended=False)
    lines, _ = await copy(external, offset=page.next_offset)

    assert len(page.lines) == 10_000
    assert len(lines) == 15_001
    assert lines[-1] == "last"


async def test_a_page_is_about_one_mebibyte(peer: HttpPeer, external: ExternalProvisioner) -> None:
    written = [f"{i} " + "x" * 200_000 for i in range(12)]
    peer.behave = serving(lambda: written, cursors=False)

    first = await external.read_logs(WORKER, offset="", ended=False)
    lines, _ = await copy(external)

    assert sum(map(len, first.lines)) < 1_300_000
    assert "".join(lines) == "".join(written)


async def test_a_log_over_the_limit_is_cut_visibly(peer: HttpPeer) -> None:
    written = ["x" * 99_999] * 30
    peer.behave = serving(lambda: written, cursors=True)
    provisioner = provisioner_at(peer.url, log_limit_bytes=1_250_000)
    await provisioner.start("test", NoBundles())
    try:
        lines, offset = await copy(provisioner)
        calls = len(peer.calls)
        after = await provisioner.read_logs(WORKER, offset=offset, ended=True)
    finally:
        await provisioner.close()

    notice = "[control-plane: output is cut here; the limit of 1250000 bytes is reached]"
    assert lines[-1] == notice
    assert sum(len(line) for line in lines[:-1]) == 12 * 99_999 + 50_000
    assert (after.lines, after.next_offset, after.complete) == ([], offset, True)
    assert len(peer.calls) == calls


async def test_a_failure_while_the_worker_runs_is_for_later(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.behave = lambda _: Answer(status=500)

    with capture_logs() as events:
        pages = [await external.read_logs(WORKER, offset="", ended=False) for _ in range(5)]

    assert all(not page.lines and page.next_offset == "" for page in pages)
    assert len(peer.calls) < 5
    assert {event["event"] for event in events} == {"logs_not_read"}


async def test_a_failure_after_the_end_is_tried_again(peer: HttpPeer) -> None:
    peer.script["get_logs"] = [Answer(status=500), Answer(status=404), logs(["one"], "1")]
    provisioner = provisioner_at(peer.url, log_patience_seconds=60)
    await provisioner.start("test", NoBundles())
    try:
        page = await provisioner.read_logs(WORKER, offset="", ended=True)
    finally:
        await provisioner.close()

    assert page.lines == ["one"]


async def test_logs_that_cannot_be_read_end_with_a_line_that_says_so(
    peer: HttpPeer, external: ExternalProvisioner
) -> None:
    peer.script["get_logs"] = [logs(["one"], "1")]
    peer.behave = lambda _: Answer(status=500, body={"detail": "the disk is gone"})
    first = await external.read_logs(WORKER, offset="", ended=False)

    began = time.monotonic()
    page = await external.read_logs(WORKER, offset=first.next_offset, ended=True)
    waited = time.monotonic() - began
    end = await external.read_logs(WORKER, offset=page.next_offset, ended=True)

    (line,) = page.lines
    assert line.startswith("[control-plane: logs could not be read: ")
    assert "the disk is gone" in line
    assert waited >= 0.2
    assert (end.lines, end.next_offset) == ([], page.next_offset)
