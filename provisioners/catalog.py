"""Provisioners by name, from the entry-point group `control_plane.provisioners`."""

from importlib.metadata import EntryPoint

from core.provisioner_kinds import UnknownProvisionerError, find_kind
from provisioners.base import Provisioner


def load_provisioner_class(kind: str) -> type[Provisioner]:
    """Load the provisioner class of a kind; upper and lower case are the same.

    Raises:
        UnknownProvisionerError: there is none, it cannot be loaded, or it calls itself otherwise.
    """
    name, entry_point = find_kind(kind)
    try:
        loaded = _load(entry_point)
    except Exception as error:
        message = f"The provisioner {name!r} ({entry_point.value}) cannot be loaded: {error}"
        raise UnknownProvisionerError(message) from error
    if loaded.kind != name:
        # The API names the queue after the entry point, the Temporal worker after the class.
        raise UnknownProvisionerError(
            f"The provisioner {name!r} ({entry_point.value}) calls itself {loaded.kind!r}: its "
            "`kind` and the name of its entry point must be the same"
        )
    return loaded


def _load(entry_point: EntryPoint) -> type[Provisioner]:
    loaded = entry_point.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Provisioner)):
        raise TypeError(f"{entry_point.value} is not a Provisioner class")
    return loaded
