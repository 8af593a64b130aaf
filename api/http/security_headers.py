"""Headers that each answer has, whatever it answers: they tell browsers what not to do with it."""

from typing import Final

SECURITY_HEADERS: Final = (
    # Nothing is loaded but from here, nothing is sent anywhere, and no page shows ours in a frame.
    (
        "content-security-policy",
        "; ".join(
            (
                "default-src 'self'",
                *(
                    f"{name} 'none'"
                    for name in ("base-uri", "form-action", "frame-ancestors", "object-src")
                ),
            )
        ),
    ),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
)
