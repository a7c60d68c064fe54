"""Small texts and datasets for the tests of the corpus."""

import json
import pathlib

import numpy as np

from lm.data import __main__ as data_command
from lm.data import documents

TEXTS = [f"document {i}: " + "the quick brown fox é 😀 jumps\n" * (i % 7 + 1) for i in range(60)]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def texts_of(path, **options):
    return documents.Documents({"train": [path]}, validation_fraction=0.2, **options)


def stream(source):
    """All whole rows of a split, as one array."""
    return source[np.arange(len(source))].reshape(-1)


def split_documents(tokens, separator):
    """Token arrays of the whole documents in a stream, without their separators."""
    return [part[:-1] for part in np.split(tokens, np.flatnonzero(tokens == separator) + 1)[:-1]]


def command(*args):
    return data_command.main([str(arg) for arg in args])


def make_dataset(folder, text=False):
    """A dataset as somebody else would make it; returns its folder."""
    import tensorflow_datasets as tfds

    class Elsewhere(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            tokens = tfds.features.Tensor(shape=(16,), dtype=np.int32)
            features = {"text": tfds.features.Text()} if text else {"ids": tokens}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(40), "test": self._generate_examples(20)}

        def _generate_examples(self, count):
            for i in range(count):
                row = np.arange(i, i + 16, dtype=np.int32)
                yield i, {"text": TEXTS[i]} if text else {"ids": row}

    tfds.disable_progress_bar()
    builder = Elsewhere(data_dir=folder)
    builder.download_and_prepare(file_format="array_record")
    return pathlib.Path(builder.data_dir)
