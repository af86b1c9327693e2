"""Every data set by its configuration: those of `adapters`, and the union of several of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator

from pipelines.datasets.adapters import ADAPTERS, AnyPartConfig
from pipelines.datasets.base import DatasetAdapter, DatasetConfig
from pipelines.datasets.union import Union, UnionConfig
from pipelines.runtime.validate import read_section

AnyDatasetConfig: TypeAlias = AnyPartConfig | UnionConfig
AnyDataset: TypeAlias = Annotated[AnyDatasetConfig, Discriminator("adapter")]
DATASETS: dict[type[DatasetConfig], Any] = {**ADAPTERS, UnionConfig: Union}


def create_dataset(config: DatasetConfig) -> DatasetAdapter:
    return DATASETS[type(config)](config)


def read_dataset(raw: Mapping[str, Any]) -> DatasetConfig:
    """A data set's configuration from what was written or from plain values. Raises ConfigError."""
    return read_section(AnyDataset, dict(raw), f"{raw.get('name')}.")
