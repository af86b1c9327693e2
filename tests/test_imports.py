"""What importing costs and drags in."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("zse_model.methods, zse_model.checkpoint", ["ray", "mlflow", "pyarrow", "fsspec", "pydantic", "pipelines"]),
        ("pipelines.ingest.prepare, pipelines.train.pairing", ["torch", "timm", "mlflow"]),  # workers start in a second
        ("pipelines.cli.app", ["torch", "ray", "mlflow"]),
    ],
)
def test_a_fresh_interpreter_loads_only_what_it_needs(modules: str, absent: list[str]) -> None:
    code = f"import sys, {modules}; print([m for m in {absent!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
