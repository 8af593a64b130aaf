"""Code bundles in memory, and projects that are bundled."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from core.bundles import BundleIsGoneError, Manifest, StoredBundle
from core.ids import VersionId
from provisioners.conformance import wait_for_end
from provisioners.process.provisioner import ProcessProvisioner
from tests.support.bundles import contents_of, manifest_of
from tests.support.provisioners.process_backend import DEPLOYMENT, ProcessBackend
from tests.support.wheels import TINY, WHEEL


class Bundles:
    """Bundles in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[Manifest, dict[str, bytes]]] = {}
        self.opened: list[str] = []
        self.gone_for: set[VersionId] = set()

    def add(self, files: Mapping[str, bytes], *, executable: Collection[str] = ()) -> str:
        """Returns the image."""
        manifest = manifest_of(files, executable=executable)
        self.stored[manifest.digest] = (manifest, contents_of(files))
        return f"bundle://{manifest.digest}"

    async def open(self, version_id: VersionId, digest: str) -> StoredBundle:
        self.opened.append(digest)
        if digest not in self.stored or version_id in self.gone_for:
            raise BundleIsGoneError("gone")
        return _Stored(*self.stored[digest])


class _Stored(StoredBundle):
    def __init__(self, manifest: Manifest, contents: dict[str, bytes]) -> None:
        super().__init__(manifest)
        self._contents = contents

    async def read(self, pieces: Collection[str]) -> dict[str, bytes]:
        return {piece: self._contents[piece] for piece in pieces}


async def another(
    backend: ProcessBackend, bundles: Bundles, **changes: object
) -> ProcessProvisioner:
    config = replace(backend.config, **changes)  # type: ignore[arg-type] # names are the caller's
    provisioner = ProcessProvisioner(config)
    await provisioner.start(DEPLOYMENT, bundles)
    return provisioner


def files_of(code: Path, image: str) -> Path:
    return code / "bundles" / image.removeprefix("bundle://") / "files"


async def output_of(backend: ProcessBackend, image: str) -> str:
    """Runs a worker; returns what it printed."""
    request = backend.request_for(image)
    worker = await backend.provisioner.provision(request)
    await wait_for_end(backend.provisioner, worker)
    page = await backend.provisioner.read_logs(worker, offset="", ended=True)
    return "\n".join(page.lines)


def make_old(code: Path) -> None:
    for mark in code.rglob("used"):
        os.utime(mark, (0, 0))


COMMAND = 'command = ["sh", "-c", "exec python $CONTROL_PLANE_PROJECT_FOLDER/program.py"]'


PROGRAM = {"control-plane.toml": COMMAND.encode()}


PRINTS_TINY = {**PROGRAM, "program.py": b"import tiny; print(tiny.value)"}


DEPENDS_ON_TINY = {
    **PRINTS_TINY,
    WHEEL: TINY,
    "requirements.txt": f"# ours\n./{WHEEL}\n".encode(),
}
