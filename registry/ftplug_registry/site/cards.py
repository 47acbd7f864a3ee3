"""A stranger's card as HTML: its markdown alone, no markup of its own, nothing fetched.

HTML in a card is shown as text; pictures as their description; links lead to http(s) addresses and
mail alone, and what steers a terminal or turns text around is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from ftplug.files.credentials import masked
from ftplug_registry.card.front_matter import split

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from markupsafe import Markup

MOST = 48_000  # characters of a card that are shown; more can take long to read
_CUT = "\n\n*The rest of this card is too long to be shown.*"
_LINK = re.compile(r"(https?://|mailto:)[^\s]+", re.IGNORECASE)
# Control characters, what turns text around, and halves of surrogate pairs.
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_LEVELS = 2  # above the headings of a card: the page has its own h1 and h2


@lru_cache(maxsize=32)
def as_html(card: str) -> Markup:
    """Return a card's text, without its metadata, as HTML that is safe on any page."""
    from markupsafe import Markup

    body = split(card.replace("\r\n", "\n").replace("\r", "\n"))[1]
    text = _ODD.sub("�", _without_comments(body)).strip()
    text = text if len(text) <= MOST else text[:MOST] + _CUT
    parser = _parser()
    tokens = list(_without_empty_heads(_harmless(parser.parse(masked(text)))))
    return Markup(parser.renderer.render(tokens, parser.options, {}))


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def _without_comments(text: str) -> str:
    """Leave out ``<!-- … -->``, which would be shown as text."""
    kept, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start)) >= 0:
        kept.append(text[at:start])
        at = end + 3
    return "".join([*kept, text[at:]])


def _harmless(tokens: Sequence[Token]) -> Iterator[Token]:
    """Yield a card's tokens with headings lower, and no style, picture or odd link in them."""
    open_ones: list[int] = []  # levels in the card of the headings that one stands below
    for token in tokens:
        if token.type == "heading_open":
            level = int(token.tag[1])
            open_ones = [*(one for one in open_ones if one < level), level]
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, len(open_ones) + _LEVELS)}"  # no level is left out
        elif token.type in ("th_open", "td_open"):
            _align_by_class(token)
        elif token.children:
            token.children = list(_inline(token.children))
        yield from _scrolling(token)


def _align_by_class(token: Token) -> None:
    """Say by a class what markdown-it says by a style, which the page's policy would refuse."""
    style = str(token.attrs.pop("style", ""))
    if style.endswith("right"):
        token.attrs["class"] = "n"
    if token.tag == "th":
        token.attrs["scope"] = "col"


def _scrolling(token: Token) -> Iterator[Token]:
    """Put a table into a region that scrolls by itself, also by keyboard."""
    from markdown_it.token import Token

    attrs: dict[str, Any] = {"class": "scroll", "role": "region", "tabindex": "0"}
    attrs["aria-label"] = "Table of the card"
    if token.type == "table_open":
        yield Token("div_open", "div", 1, attrs=attrs)
    yield token
    if token.type == "table_close":
        yield Token("div_close", "div", -1)


def _inline(tokens: Sequence[Token]) -> Iterator[Token]:
    from markdown_it.token import Token

    kept: list[bool] = []  # of each link that is open, whether it stays one
    for token in tokens:
        if token.type == "image":
            yield Token("text", "", 0, content=f"[picture: {token.content}]")
        elif token.type == "link_open":
            kept.append(_is_plain_link(token))
            if kept[-1]:
                token.attrs |= {"rel": "nofollow noopener noreferrer"}
                yield token
        elif token.type != "link_close" or kept.pop():
            yield token


def _is_plain_link(token: Token) -> bool:
    return bool(_LINK.fullmatch(str(token.attrs.get("href", ""))))


def _without_empty_heads(tokens: Iterator[Token]) -> Iterator[Token]:
    """Leave out empty heads of tables: markdown demands one, and a list of facts has none."""
    head: list[Token] | None = None
    for token in tokens:
        if token.type == "thead_open":
            head = []
        if head is None:
            yield token
            continue
        head.append(token)
        if token.type == "thead_close":
            if any(one.type == "inline" and one.content.strip() for one in head):
                yield from head
            head = None
