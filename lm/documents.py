"""Documents: where text comes from, and which split a document belongs to.

A document is a `str`. Its bytes are its UTF-8 encoding, nothing else counts as text.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator


class CorpusError(ValueError):
    """Something is wrong with the data; the message is one line that says what to do."""


def standard_library() -> str:
    """The folder of the running interpreter's standard library."""
    return sysconfig.get_path("stdlib")


def standard_library_files(root: str) -> list[str]:
    """Paths of all `.py` files under `root`, relative to it with "/", sorted."""
    found = []
    for folder, folders, files in os.walk(root):
        # Sorted in place: os.walk then descends in the same order on every file system.
        folders[:] = sorted(set(folders) - {"site-packages", "dist-packages", "__pycache__"})
        found += [os.path.join(folder, name) for name in sorted(files) if name.endswith(".py")]
    return sorted(os.path.relpath(path, root).replace(os.sep, "/") for path in found)


def read_standard_library(root: str, split: str) -> Iterator[str]:
    """Yields the sources of one split, each text once; files that are not UTF-8 are left out.

    The split follows from the path, so a file stays in its split across Python releases. A text
    that occurs under several paths belongs to the first of them, in whichever split that is.
    """
    seen = set()
    for path in standard_library_files(root):
        with open(os.path.join(root, path), "rb") as file:
            raw = file.read()
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        if not raw or digest in seen:
            continue
        seen.add(digest)
        if split_of(path) != split:
            continue
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError:  # fixtures of the interpreter's own tests
            continue


def split_of(key: str, validation_fraction: float = 0.05) -> str:
    """ "validation" for about `validation_fraction` of all keys, else "train"; by a hash."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    uniform = int.from_bytes(digest, "little") / 2**64
    return "validation" if uniform < validation_fraction else "train"
