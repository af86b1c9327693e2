"""Remove secrets and control characters from text that is printed, logged or stored."""

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
"""Variables of this project's own services. Others are recognised by their names."""
_SECRET_NAME = re.compile(
    r"(^|_)(SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|(API|ACCESS|PRIVATE|ENCRYPTION|SIGNING)_KEY)(_|$)"
)
_PLACE_NAME = re.compile(r"(_FILE|_PATH|_DIR|_URL|_URI|_ENDPOINT|_ID)$")  # the place of a secret, not a secret
SHORTEST = 8  # characters of a removed value: a password like "test" is part of many words


def holds_password(value: str) -> bool:
    """Whether the value is a URL with a password, a token or a signature."""
    return bool(
        re.match(r"[\w+.-]+://[^/\s:@]*:[^/\s]*@|https?://[^/\s@]+@", value)
        or re.search(r"://\S+[?&](X-Amz-Signature|sig|Signature)=", value)
    )


def printable(name: str) -> str:
    """A name on one line of any terminal, log or table. Bytes that are not UTF-8 and control characters are escaped
    (`\\udce9`, `\\n`); other characters are unchanged."""
    return "".join(map(_escaped, name))


def _escaped(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cs") or character in _LINE_ENDS or character in _TURNS:
        return character.encode("unicode_escape").decode()
    return character


_LINE_ENDS = "\u2028\u2029"
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the direction of the text around a name
_UNFIT = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters without tab and new line


def shown(text: str) -> str:
    """Text with `***` for user and password in URLs, for URLs of webhooks and for the secrets of the environment.

    Control characters other than tab and new line, which a terminal obeys, and bytes that are not text are escaped.
    """
    text = _UNFIT.sub(lambda found: _escaped(found[0]), text)
    secrets = _secrets() if len(text) >= SHORTEST else set()  # a page shows thousands of numbers
    for value in sorted(secrets, key=len, reverse=True):  # longest first: one may begin another
        text = text.replace(value, "***")
    text = re.sub(r"(--webhook[= ])\S+", r"\1***", text)
    text = re.sub(r"([?&](?:X-Amz-Signature|X-Amz-Security-Token|sig|Signature)=)[^&\s]+", r"\1***", text)
    # A password may contain a slash, and a path an @: s3://bucket/photo@2x.png stays, and so does text after a port,
    # since no client reads a password in user:5000/x@host.
    return re.sub(r"://(?:[^:/\s@]*:(?!\d{1,5}[/?#])\S*|[^/\s@]+)@", "://***@", text)


def shown_within(value: Any) -> Any:
    """Plain values with `shown` applied to every text and key."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown_within(key): shown_within(one) for key, one in value.items()}
    return [shown_within(one) for one in value] if isinstance(value, list | tuple) else value


def names_of_secrets(text: str) -> list[str]:
    """Names of the environment variables whose secrets are in the text."""
    if len(text) < SHORTEST:
        return []
    secrets = _secrets()
    return sorted(name for name, value in os.environ.items() if value in secrets and value in text)


def _secrets() -> set[str]:
    """The secret values of the environment: variables with a secret's name and at least `SHORTEST` characters. Paths,
    single words and numbers are left out unless the variable is in SECRETS: they are part of many texts."""
    return {
        value
        for name, value in os.environ.items()
        if name in SECRETS or (_SECRET_NAME.search(name.upper()) and not _PLACE_NAME.search(name.upper()))
        if len(value) >= SHORTEST and not os.path.isabs(value)
        if name in SECRETS or not (value.isalpha() or value.isdecimal())
    }
