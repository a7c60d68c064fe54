"""Documents: the text files, JSON lines, parquet tables and datasets that a corpus is made of.

A document is a `str`; its bytes are its UTF-8 encoding, and nothing else counts as text.
"""

import dataclasses
import glob
import hashlib
import os
import sysconfig
import zlib
from collections.abc import Iterator

from lm.data.readers import SUFFIXES, CorpusError, read


@dataclasses.dataclass
class Documents:
    """All documents of a corpus in a fixed order; iterating yields (split, text).

    Attributes:
      files: split -> input files, or "tfds:NAME@SPLIT" for a prepared dataset with text.
      field: the column or key that holds the text.
      delimiter: separates documents inside a text file; "" makes each file one document.
      root: where set, a document's key is its path relative to it; otherwise its text.
      validation_fraction: share of "train" that becomes "validation", by a hash of the key.
      deduplicate: keep only the first of equal texts; costs about 100 bytes of memory a text.
      skip_invalid: leave out what is not UTF-8 instead of raising.
    """

    files: dict[str, list[str]]
    field: str = "text"
    delimiter: str = ""
    root: str = ""
    validation_fraction: float = 0.0
    deduplicate: bool = False
    skip_invalid: bool = False

    def __post_init__(self):
        self.input_bytes = sum(_size(path) for paths in self.files.values() for path in paths)
        self.read_bytes = self.text_length = self.skipped = 0  # bytes, characters, documents so far

    @property
    def splits(self) -> list[str]:
        """Names of all splits, train first."""
        split_off = ["validation"] if self.validation_fraction else []
        return list(dict.fromkeys([*self.files, *split_off]))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        seen, self.read_bytes, self.text_length, self.skipped = set(), 0, 0, 0
        for given, paths in self.files.items():
            for path in paths:
                for text in self._read(path):
                    self.text_length += len(text)
                    if self.deduplicate:
                        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                        if digest in seen:
                            continue
                        seen.add(digest)
                    if given == "train" and self.validation_fraction:
                        key = os.path.relpath(path, self.root) if self.root else text
                        yield split_of(key, self.validation_fraction), text
                    else:
                        yield given, text

    def _read(self, path: str) -> Iterator[str]:
        """The non-empty documents of one input, in order."""
        before = self.read_bytes
        if path.startswith("tfds:"):
            from lm.data.dataset import read_tfds  # here, because TFDS takes a second to import

            yield from self._checked(path, read_tfds(path, self.field))
        else:
            try:
                with open(path, "rb") as raw:
                    for text in self._checked(path, read(path, raw, self.field, self.delimiter)):
                        self.read_bytes = before + min(raw.tell(), _size(path))
                        yield text
            except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
                raise CorpusError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        self.read_bytes = before + _size(path)

    def _checked(self, path: str, texts: Iterator[str | bytes]) -> Iterator[str]:
        for number, text in enumerate(texts, 1):
            try:
                if isinstance(text, bytes):
                    text = text.decode("utf-8")
                else:
                    text.encode("utf-8")  # JSON can spell halves of surrogate pairs
            except UnicodeError as error:
                if not self.skip_invalid:
                    raise CorpusError(
                        f"{path}: document {number} is not UTF-8 ({error.reason}, position "
                        f"{error.start}); leave such documents out with --skip-invalid"
                    ) from error
                self.skipped += 1
                continue
            if text:
                yield text


def standard_library() -> Documents:
    """The `.py` sources of the running interpreter's standard library, each text once.

    A file is split off by its path, so it keeps its split across Python releases.
    """
    root, found = sysconfig.get_path("stdlib"), []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - {"site-packages", "dist-packages", "__pycache__"})
        found += [os.path.join(folder, name) for name in files if name.endswith(".py")]
    return Documents(
        files={"train": sorted(found)},
        root=root,
        validation_fraction=0.05,
        deduplicate=True,
        skip_invalid=True,  # fixtures of the interpreter's own tests
    )


def split_of(key: str, validation_fraction: float) -> str:
    """ "validation" for about `validation_fraction` of all keys, else "train"; by a hash."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    uniform = int.from_bytes(digest, "little") / 2**64
    return "validation" if uniform < validation_fraction else "train"


def expand(patterns: list[str]) -> list[str]:
    """Files named by paths, folders (everything in them with a known suffix) and globs, sorted."""
    found = []
    for pattern in patterns:
        if pattern.startswith("tfds:"):
            found.append(pattern)
            continue
        hits = glob.glob(os.path.expanduser(pattern), recursive=True)
        inside = [path for hit in hits for path in glob.glob(f"{hit}/**", recursive=True)]
        inside = [
            path
            for path in inside
            if path.removesuffix(".gz").removesuffix(".zst").endswith(SUFFIXES)
        ]
        paths = [path for path in hits + inside if os.path.isfile(path)]
        if not paths:
            raise CorpusError(f"{pattern}: no such file, or a folder without {' '.join(SUFFIXES)}")
        found += sorted(set(paths))
    return list(dict.fromkeys(found))


def _size(path: str) -> int:
    if path.startswith("tfds:"):
        return 0
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from error
