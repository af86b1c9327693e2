"""Text without secrets, for whatever is printed, logged or stored."""

from __future__ import annotations

import os
import re
import unicodedata
from typing import Any

SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
    "ZSE_WEBHOOK",
)
"""Of the environment of this project's own services. Others are known by their names."""
_SECRET_NAME = re.compile(
    r"(^|_)(SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|(API|ACCESS|PRIVATE|ENCRYPTION|SIGNING)_KEY)(_|$)"
)
_PLACE_NAME = re.compile(r"(_FILE|_PATH|_DIR|_URL|_URI|_ENDPOINT|_ID)$")  # where a secret is, which is none
SHORTEST = 8  # characters of a value that is looked for: a password like "test" stands in many words


def holds_password(value: str) -> bool:
    """Whether it is a URL with one, or with a token or a signature that serves as one."""
    return bool(
        re.match(r"[\w+.-]+://[^/\s:@]*:[^/\s]*@|https?://[^/\s@]+@", value)
        or re.search(r"://\S+[?&](X-Amz-Signature|sig|Signature)=", value)
    )


def printable(name: str) -> str:
    """A name in one line of any terminal, log or table: an escape for each byte that is no UTF-8 and for each control
    character, `\\udce9` and `\\n`. Every other name is itself."""
    return "".join(map(_escaped, name))


def _escaped(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cs") or character in _LINE_ENDS or character in _TURNS:
        return character.encode("unicode_escape").decode()
    return character


_LINE_ENDS = "\u2028\u2029"
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # these reorder the text around a name
_UNFIT = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all of them but a tab and a new line


def shown(text: str) -> str:
    """Text without a user and a password in a URL, without the URL of a webhook, which is a secret, and without the
    values of the environment's secrets; escapes for control characters other than a tab and a new line, as a terminal
    obeys them, and for bytes that are no text."""
    text = _UNFIT.sub(lambda found: _escaped(found[0]), text)
    secrets = _secrets() if len(text) >= SHORTEST else set()  # a page shows thousands of numbers
    for value in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(value, "***")
    text = re.sub(r"(--webhook[= ])\S+", r"\1***", text)
    text = re.sub(r"([?&](?:X-Amz-Signature|X-Amz-Security-Token|sig|Signature)=)[^&\s]+", r"\1***", text)
    # A password may hold a slash, a path may hold an @: s3://bucket/photo@2x.png is left as it is, and what follows a
    # port: no client takes user:5000/x@host for a password.
    return re.sub(r"://(?:[^:/\s@]*:(?!\d{1,5}[/?#])\S*|[^/\s@]+)@", "://***@", text)


def shown_within(value: Any) -> Any:
    """Plain values, with every text in them shown."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown_within(key): shown_within(one) for key, one in value.items()}
    return [shown_within(one) for one in value] if isinstance(value, list | tuple) else value


def names_of_secrets(text: str) -> list[str]:
    """The environment's variables whose secrets stand in a text."""
    secrets = _secrets()
    return sorted(name for name, value in os.environ.items() if value in secrets and value in text)


def _secrets() -> set[str]:
    """The values of the environment that nobody may read: by their names, and long enough to be looked for. A path is
    none, and no plain word or number, which stands in many texts."""
    return {
        value
        for name, value in os.environ.items()
        if name in SECRETS or (_SECRET_NAME.search(name.upper()) and not _PLACE_NAME.search(name.upper()))
        if len(value) >= SHORTEST and not os.path.isabs(value)
        if name in SECRETS or not (value.isalpha() or value.isdecimal())
    }
