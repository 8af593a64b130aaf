"""Which keys can be guessed."""

from typing import Final

MIN_KEY_LENGTH: Final = 16
"""Characters. A random key of hexadecimal digits then has 64 bits."""
MIN_DISTINCT_CHARACTERS: Final = 6
"""A random key of 16 hexadecimal digits has fewer once in some hundred thousand."""

_KNOWN: Final = frozenset(
    {
        # Of our own example files and documents.
        "butterflyburger",
        "lemonandherb",
        # What people write until they choose one.
        "apikey",
        "changeme",
        "password",
    }
)


def why_weak(key: str) -> str | None:
    """Say why a key can be guessed, as a clause after its name; None if nothing says so.

    It finds what is short, known or monotonous. What a person has made up may pass, and be weak.
    """
    # Also what somebody has repeated to make it long enough.
    words = key.casefold()
    if any(words == known * (len(words) // len(known)) for known in _KNOWN):
        return "is a well-known word"
    if len(key) < MIN_KEY_LENGTH:
        return f"has fewer than {MIN_KEY_LENGTH} characters"
    if len(set(key)) < MIN_DISTINCT_CHARACTERS:
        return f"has fewer than {MIN_DISTINCT_CHARACTERS} different characters"
    return None
