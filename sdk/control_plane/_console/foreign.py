r"""The door for foreign text: what commands print of it can do nothing to a terminal.

Foreign is what a function, a project, a version, an error, a server's answer or a line of a log can
influence. On a terminal an escape sequence in it could write to the clipboard, rename the window,
or overwrite what was printed before; a bidi control could show a text in another order. So each
control character, each format character (as bidi controls are) and each lone surrogate is shown by
its number: `\x1b`, `\u202e`. `output.echo` does that to whatever is no `Safe`.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Final, TypeVar
from unicodedata import category

import click

F = TypeVar("F", bound=Callable[..., object])

_UNUSUAL: Final = re.compile(r"[^\n\t -~]")
"""Letters that are looked at one by one."""
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Of Unicode's categories: controls, formats, surrogates, separators of lines and paragraphs."""
_COLOUR: Final = re.compile(r"\x1b\[([0-9;]{0,64})m")
"""A sequence of ECMA-48 that selects how text is shown (SGR), and nothing else."""
_PALETTES: Final = frozenset({38, 48, 58})
"""Of these sequences' numbers those that a colour follows: `5;N`, or `2;R;G;B`."""
_CONCEAL: Final = 8
_RESET: Final = "\x1b[0m"
_RAW: Final = "control_plane.raw"


class Safe(str):
    """A text that may be written as it is. Whatever is made of it is a plain `str` again."""

    __slots__ = ()

    def lines(self) -> list["Safe"]:
        """Give its lines."""
        return [Safe(line) for line in self.split("\n")]

    def rstrip(self, chars: str | None = None, /) -> "Safe":
        """Give it without what is at its end."""
        return Safe(super().rstrip(chars))


def _make_raw(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_RAW] = value


def raw_option(command: F) -> F:
    """Add `--raw` to a command, for all that it prints but JSON."""
    return click.option(
        "--raw",
        is_flag=True,
        expose_value=False,
        callback=_make_raw,
        help="Print texts as they are, escape sequences too. They can do things to a terminal.",
    )(command)


def is_raw() -> bool:
    """Tell whether the command that runs was given `--raw`."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(_RAW))


def visible(text: str) -> Safe:
    """Give a text of one or several lines: all but line breaks and tabs is seen."""
    if isinstance(text, Safe):
        return text
    if is_raw():
        # No stream takes a lone surrogate.
        return Safe(text.encode(errors="replace").decode())
    return Safe(_UNUSUAL.sub(_number, text.replace("\r\n", "\n")))


def one_line(text: str) -> Safe:
    """Give a text without line breaks, and with one space between its words."""
    return text if isinstance(text, Safe) else visible(" ".join(text.split()))


def joined(*parts: str) -> Safe:
    """Put texts together."""
    return Safe("".join(visible(part) for part in parts))


def log_lines(text: str, *, colours: bool) -> Iterator[Safe]:
    """Give a line of a log.

    A carriage return ends a line, so that of a progress bar each state is seen, and none covers
    another.

    Args:
        text: the line.
        colours: keep its colours; they end with the line. Otherwise they are left out. Hidden text
            (SGR 8) is shown in any case.
    """
    if is_raw():
        yield visible(text)
        return
    lines = [line for line in re.split(r"[\r\n]+", text) if line] or [""]
    for line in lines:
        yield _log_line(line, colours=colours)


def json_of(value: object, *, indent: int | None = None) -> Safe:
    """Give a value as JSON."""
    return json_text(json.dumps(value, ensure_ascii=False, indent=indent))


def json_text(text: str) -> Safe:
    """Give a text that is JSON: the same value, whatever `--raw` says.

    What is hidden can only stand in JSON's strings, where its number means the same; but for the
    carriage return, which JSON allows only outside of them.
    """
    return Safe(_UNUSUAL.sub(_number_in_json, text.replace("\r", "\n")))


def _log_line(text: str, *, colours: bool) -> Safe:
    parts: list[str] = []
    end, is_coloured = 0, False
    for found in _COLOUR.finditer(text):
        parts.append(visible(text[end : found.start()]))
        end = found.end()
        if colours and (numbers := _shown(found[1])):
            parts.append(f"\x1b[{numbers}m")
            is_coloured = True
    parts.append(visible(text[end:]))
    return Safe("".join(parts) + (_RESET if is_coloured else ""))


def _shown(numbers: str) -> str:
    """Give the numbers of a colour sequence without those that hide text; "" if none is left."""
    left = [int(number or 0) for number in numbers.split(";")]
    kept: list[int] = []
    while left:
        number = left.pop(0)
        if number in _PALETTES:
            size = {5: 2, 2: 4}.get(left[0] if left else 0)
            if size is None or len(left) < size:
                # Terminals do not agree on what comes after it.
                break
            kept += [number, *left[:size]]
            del left[:size]
        elif number != _CONCEAL:
            kept.append(number)
    return ";".join(map(str, kept))


def _number(found: re.Match[str]) -> str:
    letter = found[0]
    if category(letter) not in _HIDDEN:
        return letter
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _number_in_json(found: re.Match[str]) -> str:
    letter = found[0]
    return json.dumps(letter)[1:-1] if category(letter) in _HIDDEN else letter
