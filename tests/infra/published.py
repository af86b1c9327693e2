"""What the published schemas in schemas/ say of a document."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parent / "schemas"


@cache
def _schemas(name: str) -> Any:
    return json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))


def _closed(node: Any) -> Any:
    """A CRD's schema that refuses what it does not name; Kubernetes itself would drop it without a word."""
    if isinstance(node, list):
        return [_closed(child) for child in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(child) for key, child in node.items()}
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


@cache
def _validator(kind: str) -> Draft202012Validator:
    if kind == "compose":
        return Draft202012Validator(_schemas("compose-spec"))
    if kind in (ours := _schemas("kuberay-1.7.0")):
        return Draft202012Validator(_closed(ours[kind]))
    return Draft202012Validator(_schemas("kubernetes-1.34.0")[kind])


def refusals(document: dict[str, Any], kind: str = "") -> list[str]:
    """What is wrong with it, by its apiVersion and kind, or as `kind`. A kind without a schema raises KeyError."""
    found = _validator(kind or f"{document['apiVersion']}/{document['kind']}").iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]
