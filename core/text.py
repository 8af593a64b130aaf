"""Foreign texts - names above all - as people are shown them, on a terminal or in Temporal's UI."""

import re
from typing import Final
from unicodedata import category

_UNUSUAL: Final = re.compile(r"[^\n\t -~]")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Of Unicode's categories: controls, formats, surrogates, separators of lines and paragraphs."""
_PLAIN: Final = re.compile(r"[^\W_](?:[\w .,:;()'%-]*[^\W_]|[\w .,:;()'%-]*[.)%])?")
"""Texts that Markdown shows as they are, if `_SPECIAL` is not in them: no marks, no addresses."""
_SPECIAL: Final = re.compile(r"www\.|(?<![^\W_])_|_(?![^\W_])|^\d+[.)](?:\s|$)", re.IGNORECASE)
"""What makes a link or a list without marks, and `_` at the edge of a word, which makes italics."""
_LONGEST_IN_MARKDOWN: Final = 200


def visible(text: str) -> str:
    r"""Give a text in which nothing hides: controls and formats (bidi controls too) are numbers.

    An escape character becomes `\x1b`. Line breaks and tabs stay. The commands of the SDK do the
    same to what they print (`control_plane._console.foreign`).
    """
    return _UNUSUAL.sub(_number, text.replace("\r\n", "\n"))


def in_markdown(text: str) -> str:
    """Give a foreign text for a paragraph of Markdown: it makes no markup and no link.

    A plain text, as most names are, stays as it is. Another one becomes code.
    """
    line = _short(text)
    is_plain = _PLAIN.fullmatch(line) and not _SPECIAL.search(line)
    return line if is_plain else code_in_markdown(text)


def code_in_markdown(text: str) -> str:
    """Give a foreign text as code in Markdown, on one line.

    In code Markdown knows no mark but the backtick, and makes no link even of an address. Backticks
    of the text become apostrophes.
    """
    line = _short(text).replace("`", "'")
    return f"`{line}`" if line else "(empty)"


def _short(text: str) -> str:
    line = visible(" ".join(text.split()))
    if len(line) <= _LONGEST_IN_MARKDOWN:
        return line
    return f"{line[:_LONGEST_IN_MARKDOWN]}..."


def _number(found: re.Match[str]) -> str:
    letter = found[0]
    if category(letter) not in _HIDDEN:
        return letter
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
