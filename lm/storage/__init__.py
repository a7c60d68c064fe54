"""Where files of runs, studies and corpora live: a folder of a file system, or a bucket."""

from lm.storage.files import (
    Lines,
    at,
    exists,
    folder,
    in_bucket,
    open_store,
    place,
    read,
    write,
    write_json,
)
from lm.storage.store import Store

__all__ = [
    "Lines",
    "Store",
    "at",
    "exists",
    "folder",
    "in_bucket",
    "open_store",
    "place",
    "read",
    "write",
    "write_json",
]
