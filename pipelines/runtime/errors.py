"""Errors that a user can fix, by their place: the configuration or a store."""

from __future__ import annotations

from zse_model.errors import ZseError


class ConfigError(ZseError):
    """A configuration that cannot be used. The message names the field, its value and what is allowed."""


class StorageError(ZseError):
    """A store that could not be read or written. The message names the URL and the reason."""

    passes = False
    """Whether the store was unreachable and a retry may succeed."""


class PreflightError(ZseError):
    """Several mistakes that were found together. The message has a line for each."""

    found: tuple[str, ...] = ()
    """The lines of the mistakes."""
