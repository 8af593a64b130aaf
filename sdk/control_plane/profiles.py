"""Which server the library speaks to."""

from control_plane._http.profiles import find_server

__all__ = ["find_server"]
