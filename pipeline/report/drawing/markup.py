"""HTML and SVG from elements: whatever text goes in is escaped, whatever file a page needs is in it."""

import base64
import html
import re
from collections.abc import Iterable
from typing import Any

GENERATOR = "tkd report"  # by which a page is known to be ours
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_VOID = {"br", "img", "meta"}
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | Markup | Iterable["Content"] | None


def element(name: str, /, *content: Content, **attributes: Any) -> Markup:
    """Returns an element.

    Args:
        name: Of the tag.
        content: Text, which is escaped; markup; lists of either; None is nothing.
        attributes: `class_` is class, `aria_label` aria-label; None is no attribute, True one without a value.
    """
    given = "".join(
        f" {key}" if value is True else f' {key}="{escape(str(value))}"'
        for key, value in ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
        if value is not None
    )
    return Markup(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(content)}</{name}>")


def join(content: Content) -> Markup:
    """Returns content as one piece of markup."""
    if content is None:
        return Markup("")
    if isinstance(content, str):
        return content if isinstance(content, Markup) else Markup(escape(content))
    return Markup("".join(join(part) for part in content))


def escape(text: str) -> str:
    """Returns text as it may stand between tags and in attributes; what no page may hold becomes U+FFFD."""
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", readable))


def data_uri(kind: str, content: bytes) -> str:
    """Returns bytes as an address that is the content itself.

    Args:
        kind: Media type, as image/png.
        content: The bytes.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def table(head: list[Content], rows: list[list[Content]], caption: Content = None) -> Markup:
    """Returns a table that scrolls by itself where it is too wide; the first cell of a row is its heading."""
    body = [
        element("tr", element("th", row[0], scope="row"), [element("td", cell) for cell in row[1:]]) for row in rows
    ]
    columns = element("thead", element("tr", [element("th", cell, scope="col") for cell in head]))
    whole = element("table", columns, element("tbody", body))
    scrolling = element("div", whole, class_="scroll", tabindex=0, role="region", aria_label="table")
    return element("figure", element("figcaption", caption) if caption else None, scrolling)


def figure(content: Content, caption: Content) -> Markup:
    """Returns charts side by side with a caption below."""
    return element("figure", element("div", content, class_="charts"), element("figcaption", caption))


def page(title: str, body: Content, style: str, script: str) -> Markup:
    """Returns a whole page that asks for nothing else: its own policy forbids it to."""
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=GENERATOR),
        element("title", title),
        element("style", Markup(style)),
    ]
    whole = element("html", element("head", head), element("body", body, element("script", Markup(script))), lang="en")
    return Markup(f"<!doctype html>\n{whole}\n")
