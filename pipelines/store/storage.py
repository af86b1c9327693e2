"""Read and write bytes at URLs: a local folder or any fsspec store (s3://bucket/prefix).

Other rooms call these functions and import no fsspec.
"""

from __future__ import annotations

from pipelines.store.files import (
    RangeFile,
    as_json,
    copy_file,
    create,
    download_file,
    download_folder,
    local_copy,
    naming,
    open_read,
    read_bytes,
    read_json,
    read_many,
    read_ranges,
    remove,
    remove_folder,
    side_by_side,
    upload_folder,
    write_bytes,
    write_json,
)
from pipelines.store.hashing import digest, digest_lines, sha256
from pipelines.store.listing import FileInfo, exists, file_info, folders, list_files, names
from pipelines.store.retry import TIMEOUTS, filesystem
from pipelines.store.urls import ARCHIVES, absolute, is_local, join

__all__ = [
    "ARCHIVES",
    "TIMEOUTS",
    "FileInfo",
    "RangeFile",
    "absolute",
    "as_json",
    "copy_file",
    "create",
    "digest",
    "digest_lines",
    "download_file",
    "download_folder",
    "exists",
    "file_info",
    "filesystem",
    "folders",
    "is_local",
    "join",
    "list_files",
    "local_copy",
    "names",
    "naming",
    "open_read",
    "read_bytes",
    "read_json",
    "read_many",
    "read_ranges",
    "remove",
    "remove_folder",
    "sha256",
    "side_by_side",
    "upload_folder",
    "write_bytes",
    "write_json",
]
