"""The adapters of published data sets, one file each. To add one: a file with a configuration and an adapter, an import
and a line in `ADAPTERS`."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, TypeAlias

from pipelines.datasets.adapters.domains import Domains, DomainsConfig
from pipelines.datasets.adapters.emoji import EmojiConfig, EmojiPictures
from pipelines.datasets.adapters.folder import Folder, FolderConfig
from pipelines.datasets.adapters.qmul import Qmul, QmulConfig
from pipelines.datasets.adapters.quickdraw_extended import QuickDrawExtended, QuickDrawExtendedConfig
from pipelines.datasets.adapters.quickdraw_strokes import QuickDrawStrokes, QuickDrawStrokesConfig
from pipelines.datasets.adapters.sketchy import Sketchy, SketchyConfig
from pipelines.datasets.adapters.synthetic import Synthetic, SyntheticConfig
from pipelines.datasets.adapters.tuberlin import TUBerlin, TUBerlinConfig
from pipelines.datasets.base import DatasetConfig

ADAPTERS: dict[type[DatasetConfig], Any] = {
    FolderConfig: Folder,
    SketchyConfig: Sketchy,
    TUBerlinConfig: TUBerlin,
    QuickDrawExtendedConfig: QuickDrawExtended,
    QuickDrawStrokesConfig: QuickDrawStrokes,
    QmulConfig: Qmul,
    DomainsConfig: Domains,
    SyntheticConfig: Synthetic,
    EmojiConfig: EmojiPictures,
}
if TYPE_CHECKING:
    AnyPartConfig: TypeAlias = DatasetConfig
else:
    AnyPartConfig = reduce(or_, ADAPTERS)
"""Configuration of a data set that may be a part of a `union`."""
