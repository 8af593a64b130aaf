"""The process provisioner: what is kept and read of a program's output."""

import asyncio
from pathlib import Path

from provisioners.base import Exited
from provisioners.conformance import NoBundles, until, wait_for_end
from provisioners.process.logs import PAGE_LINES
from tests.support.provisioners.process_backend import (
    DEPLOYMENT,
    ProcessBackend,
    exists,
    memory_peak,
    run,
    size,
    started,
)


class TestOutput:
    async def test_output_is_cut_at_the_limit(self, tmp_path: Path) -> None:
        backend = ProcessBackend(tmp_path, log_limit_bytes=25)
        await backend.provisioner.start(DEPLOYMENT, NoBundles())
        script = "for n in range(100000): print(f'line {n}')\nprint('x', flush=True)\nsys.exit(5)"

        worker, lines = await run(backend, backend.request_for(backend.project(script)))

        notice = "[control-plane: output is cut here; the limit of 25 bytes is reached]"
        assert lines == ["line 0", "line 1", "line 2", "line", notice]
        assert await backend.provisioner.observe(worker) == Exited(
            exit_code=5, detail="exit code 5"
        )
        await backend.close()

    async def test_much_output_needs_little_memory(self, tmp_path: Path) -> None:
        backend = ProcessBackend(tmp_path, log_limit_bytes=2**20)
        await backend.provisioner.start(DEPLOYMENT, NoBundles())
        script = """
block = b"x" * 1023 + b"\\n"
for _ in range(100):
    os.write(1, block * 1024)
open(STATE + "/printed", "w").close()
wait_for_release()
"""
        request = backend.request_for(backend.project(script))
        worker = await backend.provisioner.provision(request)
        folder = backend.worker_folder(request.execution_id)

        async def printed() -> bool:
            return exists(backend.scratch(request.execution_id).path / "printed")

        await until(printed, what="100 MiB are printed", timeout=30)
        peak = memory_peak(started(backend, request).shim.pid)
        backend.release(request.execution_id)
        await wait_for_end(backend.provisioner, worker)

        assert peak < 32 * 1024
        assert 2**20 < size(folder / "output.log") < 2**20 + 200
        await backend.close()

    async def test_lines_that_postgres_or_a_reader_could_not_take(self, tmp_path: Path) -> None:
        backend = ProcessBackend(tmp_path, max_line_bytes=10)
        await backend.provisioner.start(DEPLOYMENT, NoBundles())
        script = r"""
os.write(1, b"a\0b\xffc\r\n" + b"0123456789\n" + b"0123456789ab\n")
os.write(2, ("123456789" + chr(0x20ac) + "x\n").encode())
"""
        _, lines = await run(backend, backend.request_for(backend.project(script)))

        assert lines == [
            "a\ufffdb\ufffdc",
            "0123456789",
            "0123456789",
            "ab",
            "123456789",
            "\u20acx",
        ]
        await backend.close()

    async def test_pages_join_to_the_whole(self, tmp_path: Path) -> None:
        backend = ProcessBackend(tmp_path)
        await backend.provisioner.start(DEPLOYMENT, NoBundles())
        script = "for n in range(30000): print(f'{n:0100}')"
        worker, first = await run(backend, backend.request_for(backend.project(script)))

        lines: list[str] = []
        page = await backend.provisioner.read_logs(worker, offset="", ended=True)
        while page.lines:
            lines += page.lines
            page = await backend.provisioner.read_logs(worker, offset=page.next_offset, ended=True)

        assert len(first) < 30000
        assert lines == [f"{n:0100}" for n in range(30000)]
        await backend.close()

    async def test_a_page_of_empty_lines_is_bounded(self, tmp_path: Path) -> None:
        backend = ProcessBackend(tmp_path)
        await backend.provisioner.start(DEPLOYMENT, NoBundles())
        script = "os.write(1, b'\\n' * (2 * 10_000 + 5) + b'last')"
        worker, first = await run(backend, backend.request_for(backend.project(script)))

        sizes = []
        offset = ""
        while True:
            page = await backend.provisioner.read_logs(worker, offset=offset, ended=True)
            if not page.lines:
                break
            sizes.append(len(page.lines))
            last = page.lines[-1]
            offset = page.next_offset

        assert len(first) == sizes[0]
        assert sizes == [PAGE_LINES, PAGE_LINES, 6]
        assert last == "last"
        await backend.close()

    async def test_wait_does_not_sleep_on_unread_pages(
        self, process_backend: ProcessBackend
    ) -> None:
        script = """
for n in range(21500):
    print(f'{n:0100}')
print('last', flush=True)
wait_for_release()
"""
        request = process_backend.request_for(process_backend.project(script))
        provisioner = process_backend.provisioner
        worker = await provisioner.provision(request)
        lines: list[str] = []
        offset = ""
        async with asyncio.timeout(10):
            while lines[-1:] != ["last"]:
                await provisioner.wait(worker, timeout=60)
                page = await provisioner.read_logs(worker, offset=offset, ended=False)
                lines += page.lines
                offset = page.next_offset

        assert len(lines) == 21501
