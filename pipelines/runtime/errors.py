"""What a user can mend, by where it lies: the configuration, or a store."""

from __future__ import annotations

from zse_model.errors import ZseError


class ConfigError(ZseError):
    """A configuration that cannot be used; the message names the field, its value and what is allowed."""


class StorageError(ZseError):
    """A store that could not be read or written; the message names the URL and the reason."""

    passes = False
    """Whether the store was away, and may answer soon."""


class PreflightError(ZseError):
    """Several mistakes that were found together. The message has a line for each."""

    found: tuple[str, ...] = ()
    """These lines."""
