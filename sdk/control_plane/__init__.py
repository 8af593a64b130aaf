"""control-plane: write functions for the control plane, and talk to it.

This module stays light: every worker imports it before the user's function runs.
"""

from control_plane.interruption import Interrupted, InvocationCancelled, InvocationTimedOut

__all__ = ["Interrupted", "InvocationCancelled", "InvocationTimedOut"]
