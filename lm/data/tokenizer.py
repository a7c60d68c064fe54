"""Tokenizers: text to token ids, and how many bytes of text each token stands for.

Two kinds with one interface: `Bytes`, which needs nothing, and `Json`, any tokenizer.json of the
`tokenizers` library. Both are picklable and end every document with their separator token.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable

import numpy as np

from lm import storage
from lm.data.readers import CorpusError, optional

# Names under which published tokenizers keep the token that ends a document.
SEPARATORS = ("<|end_of_text|>", "<|endoftext|>", "<|eos|>", "</s>", "<eos>", "[SEP]")


class Bytes:
    """The 256 bytes, and 256 for the end of a document."""

    vocab_size, separator = 257, 256
    identity = "bytes"

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, int32, separator included."""
        return [
            np.append(np.frombuffer(text.encode(), np.uint8).astype(np.int32), np.int32(256))
            for text in texts
        ]

    @property
    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) int32: bytes of text per token; 0 for those that add none."""
        return np.append(np.ones(256, np.int32), np.int32(0))


class Json:
    """A tokenizer.json file. Special tokens inside the text are spelled out, not obeyed."""

    def __init__(self, path: str, separator: str = ""):
        """`separator`: the token that ends a document; by default the one of SEPARATORS it has."""
        try:
            with open(path, encoding="utf-8") as file:
                self._text = file.read()
            vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        except OSError as error:
            raise CorpusError(f"tokenizer {path}: {error.strerror}") from error
        except CorpusError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise CorpusError(f"tokenizer {path}: not a tokenizer.json: {error}") from error
        names = [separator] if separator else [name for name in SEPARATORS if name in vocabulary]
        if not names or names[0] not in vocabulary:
            raise CorpusError(
                f"tokenizer {path}: has no token {separator or SEPARATORS}; "
                f"name the one that ends a document with --separator"
            )
        self.separator = vocabulary[names[0]]
        self.vocab_size = max(vocabulary.values()) + 1
        self.identity = hashlib.blake2b(self._text.encode(), digest_size=16).hexdigest()

    @functools.cached_property
    def _tokenizer(self):
        tokenizer = optional("tokenizers").Tokenizer.from_str(self._text)
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if key != "_tokenizer"}

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, int32; with what the tokenizer itself puts around a text (such
        as a first token), and the separator unless that is there already."""
        out = []
        for encoding in self._tokenizer.encode_batch_fast(texts):
            ids = encoding.ids
            out.append(np.array(ids if ids[-1:] == [self.separator] else [*ids, self.separator]))
        return [ids.astype(np.int32) for ids in out]

    @property
    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) int32: bytes of text per token; 0 for those that add none.

        Byte-level vocabularies spell one byte per character, others their own text with "▁" for a
        space and "<0xAB>" for a byte. Whether that is right is counted when a corpus is prepared.
        """
        definition = json.loads(self._text)
        special = {token["content"] for token in definition["added_tokens"] if token["special"]}
        added = {token["content"] for token in definition["added_tokens"]}
        byte_level = "ByteLevel" in json.dumps(
            [definition.get("pre_tokenizer"), definition.get("decoder")]
        )
        table = np.zeros(self.vocab_size, np.int32)
        for token, index in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if token in special:
                continue
            if byte_level and token not in added:
                table[index] = len(token)
            elif len(token) == 6 and token.startswith("<0x"):
                table[index] = 1
            else:
                table[index] = len(token.replace("▁", " ").encode())
        return table


def load(path: str, separator: str = "") -> Bytes | Json:
    """The tokenizer of `--tokenizer`: "bytes" or a file."""
    return Bytes() if path == "bytes" else Json(path, separator)


def train(texts: Iterable[str], vocab_size: int, path: pathlib.Path) -> Json:
    """Trains a byte-level BPE of `vocab_size` tokens on `texts`; writes tokenizer.json to `path`.

    Pre-tokenised as GPT-2 does, 256 bytes as the alphabet, "<|endoftext|>" as the separator.
    """
    if vocab_size < 257:
        raise CorpusError(f"vocab_size = {vocab_size}: at least 257, the bytes and a separator")
    tokenizers = optional("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    try:
        storage.write(path, tokenizer.to_str(pretty=True).encode())
    except OSError as error:
        raise CorpusError(f"cannot write {path}: {error.strerror}") from error
    return Json(str(path))
