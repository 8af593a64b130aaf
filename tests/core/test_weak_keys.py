"""Which keys are taken for ones that can be guessed."""

import secrets

import pytest

from core.weak_keys import why_weak


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("butterflyburger", "is a well-known word"),
        ("ChangeMe", "is a well-known word"),
        ("passwordpassword", "is a well-known word"),
        ("apikey", "is a well-known word"),
        ("lemonandherb", "is a well-known word"),
        ("3f9a", "has fewer than 16 characters"),
        ("x" * 64, "has fewer than 6 different characters"),
        ("01" * 32, "has fewer than 6 different characters"),
    ],
)
def test_short_known_and_monotonous_keys_are_weak(key: str, reason: str) -> None:
    assert why_weak(key) == reason


def test_random_keys_are_not() -> None:
    for _ in range(100):
        for key in (secrets.token_hex(32), secrets.token_urlsafe(32), secrets.token_hex(16)):
            assert why_weak(key) is None
