"""Foreign texts in Markdown are texts: Temporal's UI makes no mark and no link of them."""

import random
import re

import pytest
from markdown_it import MarkdownIt

from core.text import code_in_markdown, in_markdown, visible

PARTS = (
    *("`", "``", "*", "**", "_", "__", "~~", "[", "](http://evil.example)", "![", "<b>", ">"),
    *("http://evil.example", "www.evil.example", "a@b.example", "&lt;", "\\", "\n\n", "|"),
    *("<!--", "\n# ", "\n- ", "1. ", "\n```\n", "\x1b[2J", "\u202e", "name", "é", " ", "."),
    *(":", "(", ")", "%", "'"),
)
GFM_LINK = re.compile(r"https?://|www\.|\w@\w", re.IGNORECASE)


def seen(markdown: str) -> str:
    """What a reader sees of it; fails if anything but text and code comes of it."""
    parser = MarkdownIt("commonmark").enable(["strikethrough", "table"])
    # Alone it would not begin a list or the like, either.
    assert [block.type for block in parser.parse(markdown)][0::2] == [
        "paragraph_open",
        "paragraph_close",
    ]
    blocks = parser.parse(f"**Queued**: {markdown}, and so on")
    assert [block.type for block in blocks] == ["paragraph_open", "inline", "paragraph_close"]
    inline = blocks[1].children
    assert inline is not None
    kinds = [each.type for each in inline if each.content or "text" not in each.type]
    assert kinds[:3] == ["strong_open", "text", "strong_close"]
    assert set(kinds[3:]) <= {"text", "code_inline"}, markdown
    for each in inline:
        if each.type == "text":
            # GitHub's Markdown makes links of these; in code it does not.
            assert not GFM_LINK.search(each.content), markdown
    text = "".join(each.content for each in inline)
    return text.removeprefix("Queued: ").removesuffix(", and so on")


@pytest.mark.parametrize(
    "name", ["greet", "shop.jobs:bill", "count_up", "my-project", "x", "日本語", "Ada's"]
)
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert in_markdown(name) == name
    assert seen(name) == name


def test_what_explains_a_call_stays_readable() -> None:
    for text in (
        "1 of 1 concurrent executions in use, 0 waiting ahead",
        "attempt 2 of 2: user_error (ValueError)",
        "the worker could not be made.",
    ):
        assert in_markdown(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`[x](http://evil.example)", "`'[x](http://evil.example)`"),
        ("__init__", "`__init__`"),
        ("_x", "`_x`"),
        ("www.evil.example", "`www.evil.example`"),
        ("a\n\n# b", "`a # b`"),
        ("\x1b[2J\u202e", "`\\x1b[2J\\u202e`"),
        ("", "(empty)"),
        ("`", "`'`"),
    ],
)
def test_other_texts_become_code(text: str, shown: str) -> None:
    assert in_markdown(text) == shown


def test_no_text_becomes_a_mark_or_a_link() -> None:
    chance = random.Random(7)  # noqa: S311 - no secret
    for _ in range(5_000):
        text = "".join(chance.choices(PARTS, k=chance.randint(1, 8)))
        for markdown in (in_markdown(text), code_in_markdown(text)):
            if text.strip():
                assert seen(markdown) == visible(" ".join(text.split())).replace("`", "'")


def test_a_long_text_is_cut() -> None:
    assert len(in_markdown("x" * 1023)) == 203
    assert len(code_in_markdown("\x1b" * 1023)) == 205
