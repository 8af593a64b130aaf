"""The state folder of the process provisioner: what is kept for each deployment of a machine.

| path | what it is |
|---|---|
| `<deployment>/workers/<execution id>/` | the folder of a worker (`folder.py`) |
| `<deployment>/code/` | code bundles and their environments (`provisioners/code/folders.py`) |
| `<deployment>/warm/` | the folders of warm parents |
| `<deployment>/trash/` | what is being deleted; emptied at the next start |
| `w/` | what workers may write to (`scratch.py`); short, since programs put sockets below it |
| `users/` | which user each project's workers are (`confinement/users.py`) |
| `sdk-*/`, `programs-*/` | what the workers of all deployments are run with |

Workers can reach only `w/`, the code and the last two, where they are other users than the server.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from core.ids import ExecutionId
from provisioners.base import UnrecoverableProvisioningError
from provisioners.files import delete_tree
from provisioners.process.folder import WorkerFolder
from provisioners.process.scratch import Scratch, Scratches

_EXECUTION_ID = re.compile(r"exe-[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class StateFolder:
    """Where everything of one deployment is."""

    root: Path
    """Absolute; shared by the deployments of this machine."""
    deployment: str

    @property
    def workers(self) -> Path:
        """The workers' folders."""
        return self.root / self.deployment / "workers"

    @property
    def trash(self) -> Path:
        """For what is to be deleted: it is renamed into here, in one step."""
        return self.root / self.deployment / "trash"

    @property
    def code(self) -> Path:
        """Code bundles and environments."""
        return self.root / self.deployment / "code"

    @property
    def warm(self) -> Path:
        """The folders of warm parents."""
        return self.root / self.deployment / "warm"

    @property
    def users(self) -> Path:
        """Says which user each project's workers are."""
        return self.root / "users"

    @property
    def scratches(self) -> Scratches:
        """The folders that workers may write to."""
        return Scratches(self.root / "w")

    @property
    def stack_name(self) -> str:
        """Name this folder where its path does not fit, as in a cgroup's name."""
        digest = hashlib.sha256(os.fsencode(self.workers)).hexdigest()[:12]
        return f"control-plane-{digest}"

    def get_ready(self) -> None:
        """Make the folders, and delete what an earlier process could not.

        Raises:
            UnrecoverableProvisioningError: this folder cannot be used; the text says why.
        """
        try:
            for folder in (self.root, self.workers, self.trash):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            message = f"The state folder {self.root} cannot be used: {error.strerror}"
            raise UnrecoverableProvisioningError(message) from error
        if self.root.stat().st_uid != os.geteuid():
            # Its owner could make us run anything; the default is in a shared folder.
            message = f"The state folder {self.root} belongs to another user"
            raise UnrecoverableProvisioningError(message)
        self.scratches.get_ready()
        # Workers pass through, and cannot look around; what is in here has modes of its own.
        for folder in (self.root, self.root / self.deployment):
            folder.chmod(0o711)
        for leftover in self.trash.iterdir():
            delete_tree(leftover)

    def worker(self, execution_id: ExecutionId) -> WorkerFolder:
        """Give the folder of a worker, which may not exist.

        Raises:
            UnrecoverableProvisioningError: this is not an execution id.
        """
        if not _EXECUTION_ID.fullmatch(execution_id):
            raise UnrecoverableProvisioningError(f"{execution_id!r} is not an execution id")
        return WorkerFolder(self.workers / execution_id)

    def scratch(self, execution_id: ExecutionId) -> Scratch:
        """Give what a worker may write to, which may not exist."""
        return self.scratches.of(execution_id)

    def list_workers(self) -> list[ExecutionId]:
        """List the executions that have a folder."""
        try:
            names = sorted(entry.name for entry in self.workers.iterdir())
        except FileNotFoundError:
            return []
        return [ExecutionId(name) for name in names if _EXECUTION_ID.fullmatch(name)]
