"""The registry of data sets: configuration class -> adapter, for those of `adapters` and for `union`."""

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
    """A data set's configuration from its section of a YAML file. Raises ConfigError with the field's path."""
    return read_section(AnyDataset, dict(raw), f"{raw.get('name')}.")
