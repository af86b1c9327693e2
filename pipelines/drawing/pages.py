"""HTML pages from the templates beside this file: one base, one style sheet, one content security policy.

A page is one file. It has no script and loads nothing: pictures are inlined.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.runtime.redaction import printable, shown

# The one style sheet is allowed by its hash, so a style that comes in with a name does not apply.
POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"


def page(template: str, **values: Any) -> str:
    """The HTML of `templates/<template>.html`. Every text among the values is escaped, in one line and without secrets.

    Raises jinja2.UndefinedError for a value that the template needs and does not get.
    """
    return _environment().get_template(f"{template}.html").render(values)


def data_url(picture: bytes) -> str:
    """A PNG or JPEG as the address of an <img>."""
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
    """A text as a page shows it. What a template marks as safe is no plain `str`, and stays."""
    return printable(shown(value)) if type(value) is str else value
