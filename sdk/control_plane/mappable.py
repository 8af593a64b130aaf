"""Calling a function for many inputs: what `Function.map` takes and gives."""

from control_plane._call.mappable import MapOptions, Mappable

__all__ = ["MapOptions", "Mappable"]
