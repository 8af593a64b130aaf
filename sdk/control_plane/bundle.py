"""What is wrong with the files of a project that is deployed."""

from control_plane._deploy.bundle import BundleError

__all__ = ["BundleError"]
