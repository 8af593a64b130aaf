"""Foreign texts - names above all - as people are shown them, on a terminal or in Temporal's UI."""

import re
from typing import Final
from unicodedata import category

_UNUSUAL: Final = re.compile(r"[^\n\t -~]")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Of Unicode's categories: controls, formats, surrogates, separators of lines and paragraphs."""
_PLAIN: Final = re.compile(r"(?!www\.)[^\W_](?:[\w.:-]*[^\W_])?", re.IGNORECASE)
"""Names that Markdown shows as they are: no marks, no link, no `_` at an end."""


def visible(text: str) -> str:
    r"""Give a text in which nothing hides: controls and formats (bidi controls too) are numbers.

    An escape character becomes `\x1b`. Line breaks and tabs stay. The commands of the SDK do the
    same to what they print (`control_plane._console.foreign`).
    """
    return _UNUSUAL.sub(_number, text.replace("\r\n", "\n"))


def name_in_markdown(name: str) -> str:
    """Give a name for a text in Markdown, in which it can be neither markup nor a link.

    A plain name stays as it is. Another one becomes code, in which Markdown knows no mark but the
    backtick, and makes no link even of an address; its backticks become apostrophes.
    """
    return name if _PLAIN.fullmatch(name) else code_in_markdown(name)


def code_in_markdown(text: str) -> str:
    """Give a text as code in Markdown, on one line."""
    line = visible(" ".join(text.split())).replace("`", "'")
    return f"`{line}`" if line else "(empty)"


def _number(found: re.Match[str]) -> str:
    letter = found[0]
    if category(letter) not in _HIDDEN:
        return letter
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
