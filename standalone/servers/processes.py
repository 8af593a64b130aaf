"""Other processes of this machine, looked at and never touched."""

from pathlib import Path


def start_time(pid: int) -> str | None:
    """Give the start of a process in clock ticks since boot; None if it is gone or a zombie.

    Number and start time together name a process; the number alone is used again.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
