"""Render HTML pages from `templates/`, with one base, one style sheet and one content security policy.

A page is one file without scripts. It loads nothing: pictures are inlined.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.runtime.redaction import printable, shown

# The hash allows the style sheet only, so a style inside a name does not apply.
POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"


def page(template: str, **values: Any) -> str:
    """The HTML of `templates/<template>.html`. Texts in `values` are escaped, on one line and without secrets.

    Raises jinja2.UndefinedError for a missing value.
    """
    return _environment().get_template(f"{template}.html").render(values)


def data_url(picture: bytes) -> str:
    """A PNG or JPEG as a data URL, for the `src` of an <img>."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


@cache
def _environment() -> Environment:
    loader = PackageLoader("pipelines.drawing")
    made = Environment(
        loader=loader,
        autoescape=True,
        finalize=_without_secrets,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = loader.get_source(made, "style.css")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    made.globals.update(style=style, policy=POLICY.format(digest))
    made.filters["data_url"] = data_url
    return made


def _without_secrets(value: Any) -> Any:
    """Text without secrets and control characters. Text that a template marks as safe is no plain `str`: unchanged."""
    return printable(shown(value)) if type(value) is str else value
