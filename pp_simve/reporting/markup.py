"""HTML from nested calls; text is escaped unless a call made it."""

from __future__ import annotations

import base64
import html
import json
from typing import Any

VOID = frozenset({"br", "circle", "img", "input", "link", "meta", "path"})
"""Elements without an end tag, or with nothing in them."""


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, /, *children: str | None, **attributes: Any) -> Markup:
    """An element around its children; those that are no `Markup` are escaped, None is left out.

    Args:
        name: of the element.
        children: text or elements.
        attributes: ``_`` stands for ``-``, and one at the end (``class_``) is dropped. True is an attribute without a
            value, False and None none at all.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Markup(f"<{name}{written}{'/' if name in ('circle', 'path') else ''}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Markup:
    """Children one after the other, escaped as in `tag`."""
    return Markup(
        "".join(child if isinstance(child, Markup) else html.escape(child) for child in children if child is not None)
    )


def number(value: Any, shown: str) -> Markup:
    """A number as people read it, with its exact value beside it for machines."""
    return tag("data", shown, value=json.dumps(value))


def png_uri(picture: bytes) -> str:
    """A PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def tile(label: str, value: Any, shown: str, hint: str) -> Markup:
    """A number of a list of the main ones, with what it is and how to read it."""
    return tag("div", tag("dt", label), tag("dd", number(value, shown)), tag("dd", tag("small", hint)))


def missing(what: str) -> Markup:
    """Words in the place of what is not there."""
    return tag("p", what, class_="missing")
