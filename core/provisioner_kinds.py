"""Which kinds of provisioners are installed: the entry-point group `control_plane.provisioners`.

Only names are looked at, no class is loaded: the API needs the name of a kind that it does not know
otherwise. `provisioners/catalog.py` loads the classes.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Final

GROUP: Final = "control_plane.provisioners"


class UnknownProvisionerError(LookupError):
    """No usable provisioner has this name. The text lists the names there are."""


def installed_kinds() -> dict[str, EntryPoint]:
    """Give the installed kinds by lower-case name, sorted; some may be impossible to load."""
    found = {entry_point.name.lower(): entry_point for entry_point in entry_points(group=GROUP)}
    return dict(sorted(found.items()))


def find_kind(kind: str) -> tuple[str, EntryPoint]:
    """Give the exact name of a kind, and where its class is; upper and lower case are the same.

    Raises:
        UnknownProvisionerError: nothing of this name is installed.
    """
    installed = installed_kinds()
    name = kind.lower()
    if name not in installed:
        known = ", ".join(installed) or "none"
        raise UnknownProvisionerError(f"There is no provisioner {kind!r}. Available: {known}")
    return name, installed[name]
