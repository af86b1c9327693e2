"""What importing costs and drags in."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("zse_model.methods", ["ray", "mlflow", "pyarrow", "fsspec", "pydantic", "pipelines"]),
        ("zse_model.checkpoint", ["ray", "mlflow", "pyarrow", "fsspec", "pydantic", "pipelines"]),
        ("pipelines.ingest.prepare", ["torch", "timm", "mlflow"]),  # ingest workers start in a second
        ("pipelines.train.pairing", ["torch", "timm", "mlflow"]),
        ("pipelines.cli.app", ["torch", "ray", "mlflow"]),
    ],
)
def test_a_fresh_interpreter_loads_only_what_it_needs(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
