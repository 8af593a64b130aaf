"""Going from page to page through a function's invocations.

As in `control_plane._http.exchange`, nothing here sends or sleeps.
"""

from control_plane._http.exchange import Exchange, Give, Stream
from control_plane._http.requests import list_invocations
from control_plane.models import InvocationSummary


def all_invocations(
    exchange: Exchange,
    project: str,
    function: str,
    *,
    version: str,
    status: str | None,
    parent: tuple[str, str] | None,
) -> Stream[InvocationSummary]:
    """Give all invocations of a function, newest first; a status or a parent leaves others out."""
    offset: str | None = None
    while True:
        page = yield from exchange(
            list_invocations(
                project, function, version=version, status=status, parent=parent, offset=offset
            )
        )
        for each in page.invocations:
            yield Give(each)
        # The other pages are of the same version, whatever `latest` means meanwhile.
        version, offset = page.version_id, page.next_offset
        if offset is None:
            return
