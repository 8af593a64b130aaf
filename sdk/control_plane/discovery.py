"""What is wrong with the functions of a project that is deployed."""

from control_plane._deploy.discovery import DiscoveryError

__all__ = ["DiscoveryError"]
