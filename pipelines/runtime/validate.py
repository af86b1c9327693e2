"""Build configurations from YAML values or plain values. Unknown keys are refused, and errors name the field.

`config` and `datasets` call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.runtime.errors import ConfigError
from pipelines.runtime.redaction import holds_password, names_of_secrets
from pipelines.runtime.written import read


def read_section(kind: Any, raw: Any, prefix: str) -> Any:
    """A configuration of type `kind` from `raw`. Raises ConfigError, with `prefix` before each field's name."""
    refuse_passwords(raw, prefix)
    raw = read(kind, raw, prefix.removesuffix("."))
    try:
        return _adapter(kind).validate_python(raw)
    except ValidationError as error:
        lines: dict[str, str] = {}
        for wrong in error.errors():  # pydantic reports one error for each member of a union
            lines.setdefault(".".join(_place(raw, wrong)), _said(prefix, raw, wrong))
        raise ConfigError("; ".join(lines.values())) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Pydantic's validator of a type. Building it takes 50 times as long as a validation."""
    return TypeAdapter(kind)


def _said(prefix: str, raw: Any, wrong: Any) -> str:
    place = (prefix + ".".join(_place(raw, wrong))).rstrip(".: ")
    if wrong["type"] == "value_error":  # our own error names the value; pydantic would add the whole section
        said = str(wrong["ctx"]["error"])
        return said if not place or said.startswith((f"{place}.", f"{place}:")) else f"{place}: {said}"
    if wrong["type"] == "tuple_type":
        return f"{place}: expected a list, such as [{wrong['input']}], got {wrong['input']!r}"
    return f"{place}: {wrong['msg']}" + ("" if wrong["type"] == "missing" else f", got {wrong['input']!r}")


def _place(raw: Any, wrong: Any) -> Iterator[str]:
    """The path of a field, without the members of unions that pydantic adds."""
    loc: Sequence[str | int] = wrong["loc"]
    for i, part in enumerate(loc):
        if isinstance(raw, dict) and part in raw:
            raw = raw[part]
            yield str(part)
        elif isinstance(raw, list | tuple) and isinstance(part, int):
            raw = raw[part] if part < len(raw) else None
            yield str(part)
        elif i == len(loc) - 1 and wrong["type"] == "missing":
            yield str(part)


def refuse_passwords(raw: Any, path: str) -> None:
    """Raise ConfigError for a secret: configurations are written to manifests and MLflow, where many can read them."""
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ():
        refuse_passwords(value, f"{path}{key}.")
    if isinstance(raw, str) and holds_password(raw):
        raise ConfigError(
            f"{path[:-1]} is a URL with a password. Give credentials by the environment or the machine's role: "
            "MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; AWS_..."
        )
    if isinstance(raw, str) and (secrets := names_of_secrets(raw)):
        raise ConfigError(
            f"{path[:-1]} contains the secret value of {' and '.join(secrets)}, but configurations are stored where "
            "many can read them. Remove it: programs read it from the environment"
        )
