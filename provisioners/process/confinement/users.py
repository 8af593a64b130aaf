"""The users that workers run as: one for each project, of a range that the operator gives.

Only root can start processes of other users. Elsewhere workers run as the server's own user.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from provisioners.base import UnrecoverableProvisioningError

NEEDED_CAPABILITIES = {
    0: "CHOWN",
    1: "DAC_OVERRIDE",
    3: "FOWNER",
    5: "KILL",
    6: "SETGID",
    7: "SETUID",
}
"""By number, man 7 capabilities: what it takes to run, watch and end processes of other users."""
USUAL_UIDS = "50000-59999"
"""Ids that the usual tools of Linux distributions give to nobody."""
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class WorkerUser:
    """The user of one project's workers; its group has the same number."""

    uid: int

    @property
    def gid(self) -> int:
        """The only group of its processes."""
        return self.uid


@dataclass(frozen=True, kw_only=True)
class UidRange:
    """User ids that belong to nobody else on this machine."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "UidRange":
        """Read `first-last`.

        Raises:
            ValueError: it is not that, or would name users of the system.
        """
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise ValueError("must be two user ids, as in 50000-59999")
        first, last = int(found[1]), int(found[2])
        # 65534 is nobody, and 65535 and the last number mean "no change" to the kernel.
        if (
            not 1000 <= first <= last < 2**32 - 1
            or first <= 65535 <= last
            or first <= 65534 <= last
        ):
            raise ValueError("must begin at 1000 or above, and leave out 65534 and 65535")
        return cls(first=first, last=last)


@dataclass(frozen=True)
class WorkerUsers:
    """Hands out user ids to projects, each one for good.

    Each is a link in a folder, named by the id, that names the project: one is made in one step,
    and never twice.
    """

    folder: Path
    uids: UidRange

    def get_ready(self) -> None:
        """Make the folder."""
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def of(self, owner: str) -> WorkerUser:
        """Give the user of an owner, always the same one.

        Args:
            owner: names the deployment and the project.

        Raises:
            UnrecoverableProvisioningError: all ids of the range are taken.
        """
        digest = hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()
        size = self.uids.last - self.uids.first + 1
        # Where it begins to look depends on the folder too: two of them seldom hand out the same.
        seed = hashlib.sha256(os.fsencode(self.folder) + digest.encode()).hexdigest()
        start = int(seed, 16) % size
        for step in range(size):
            uid = self.uids.first + (start + step) % size
            link = self.folder / str(uid)
            try:
                link.symlink_to(digest)
            except FileExistsError:
                if os.readlink(link) != digest:  # noqa: PTH115 - a name, and no path
                    continue
            return WorkerUser(uid)
        raise UnrecoverableProvisioningError(
            f"All user ids from {self.uids.first} to {self.uids.last} belong to other projects; "
            "PROCESS_WORKER_UIDS can name a larger range"
        )


def why_not_other_users(uids: UidRange) -> str | None:
    """Say why this process cannot run programs as users of this range; None: it can."""
    if os.geteuid() != 0:
        return "the server is not run by root"
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    missing = [name for bit, name in NEEDED_CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        return f"the server lacks {', '.join(f'CAP_{name}' for name in missing)}"
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, count = map(int, line.split())
        if inside <= uids.first and uids.last < inside + count:
            return None
    return f"user ids {uids.first} to {uids.last} do not exist in this user namespace"
