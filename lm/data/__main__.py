"""`python -m lm.data`: prepare a corpus, show one, put it into a bucket, train a tokenizer."""

import argparse
import os
import pathlib
import re
import sys

from lm.command import guarded
from lm.data import documents, remote, tokenizer
from lm.data.cache import build, default_cache, describe, find, read_meta
from lm.data.prepare import CHUNK_BYTES
from lm.data.readers import CorpusError
from lm.storage import in_bucket


def main(argv: list[str]) -> int:
    """Runs one command; returns the exit code, 2 for bad data or arguments."""
    args = _parser().parse_args(argv)
    return guarded(lambda: args.run(args) or 0, interrupted="run the same command again to go on")


def prepare(args):
    """Text to tokens in the cache."""
    cache = pathlib.Path(args.cache)
    if args.name == "stdlib":
        folder = find("stdlib", cache)
    else:
        if not re.fullmatch(r"\w[\w.-]*", args.name):
            raise CorpusError(f"corpus name {args.name!r}: letters, digits and _ . - only")
        tokens = tokenizer.load(args.tokenizer, args.separator)
        texts = input_documents(args)
        # Splitting text into bytes is faster than sending it to another process.
        small = args.tokenizer == "bytes" or texts.input_bytes < 2 * CHUNK_BYTES
        processes = args.processes or (1 if small else os.cpu_count() or 1)
        folder = build(args.name, texts, tokens, cache, processes=processes)
    print("\n".join(describe(folder, read_meta(folder))))


def show(args):
    """What a prepared corpus holds."""
    if in_bucket(args.name):
        print("\n".join(remote.describe(args.name)))
        return
    folder = find(args.name, pathlib.Path(args.cache))
    print("\n".join(describe(folder, read_meta(folder))))


def upload(args):
    """A prepared corpus into a bucket."""
    if not in_bucket(args.address):
        raise CorpusError(f"{args.address} is no address in a bucket, as gs://BUCKET/FOLDER")
    remote.upload(find(args.name, pathlib.Path(args.cache)), args.address)
    print("\n".join(remote.describe(args.address)))


def train_tokenizer(args):
    """A byte-level BPE from the training text."""
    texts = (text for split, text in input_documents(args) if split == "train")
    tokens = tokenizer.train(texts, args.vocab_size, pathlib.Path(args.out))
    print(f"{args.out}: {tokens.vocab_size:,} tokens, the separator is {tokens.separator}")


def input_documents(args) -> documents.Documents:
    """The input files of the command line."""
    files = {"train": documents.expand(args.train)}
    if not files["train"]:
        raise CorpusError("no training text: give --train FILES")
    for item in args.validation:
        name, _, pattern = item.partition("=")
        if not re.fullmatch(r"\w+", name) or not pattern or name == "train":
            raise CorpusError(f"--validation {item}: expected NAME=FILES, as in books=books/*.txt")
        files.setdefault(name, []).extend(documents.expand([pattern]))
    fraction = args.validation_fraction
    if fraction is None:
        fraction = 0.0 if args.validation else 0.01
    if not 0 <= fraction < 1:
        raise CorpusError(f"--validation-fraction {fraction}: must be in [0, 1)")
    if len(files) == 1 and not fraction:
        raise CorpusError("no validation text: give --validation or --validation-fraction")
    return documents.Documents(
        files,
        field=args.field,
        delimiter=args.delimiter,
        validation_fraction=fraction,
        deduplicate=args.deduplicate,
        skip_invalid=args.skip_invalid,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lm.data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    cache = argparse.ArgumentParser(add_help=False)
    cache.add_argument(
        "--cache",
        default=default_cache(),
        help="folder of prepared corpora (default: $BESTIARY_CACHE or ~/.cache/bestiary)",
    )
    text = argparse.ArgumentParser(add_help=False)
    add = text.add_argument
    add(
        "--train",
        nargs="+",
        default=[],
        metavar="FILES",
        help="files, folders, globs or tfds:NAME@SPLIT; text, .jsonl, .parquet; also .gz, .zst",
    )
    add(
        "--validation",
        nargs="+",
        default=[],
        metavar="NAME=FILES",
        help="named validation sets, the headline first",
    )
    add(
        "--validation-fraction",
        type=float,
        metavar="F",
        help="share of the training documents kept for validation, by a hash of the text "
        "(default: 0.01, or 0 with --validation)",
    )
    add("--field", default="text", help="key or column that holds the text (default: text)")
    add("--delimiter", default="", help="separates documents in a text file (default: one a file)")
    add("--deduplicate", action="store_true", help="keep only the first of equal documents")
    add("--skip-invalid", action="store_true", help="leave out documents that are not UTF-8")

    command = commands.add_parser("prepare", parents=[cache, text], help=prepare.__doc__)
    add = command.add_argument
    add("name", metavar="NAME", help='name in the cache, or "stdlib"')
    add("--tokenizer", default="bytes", help='"bytes" or a tokenizer.json')
    add("--separator", default="", help="token that ends a document (default: found)")
    add("--processes", type=int, default=0, help="default: one per core")
    command.set_defaults(run=prepare)

    command = commands.add_parser("show", parents=[cache], help=show.__doc__)
    command.add_argument("name", metavar="NAME", help="name, folder or address")
    command.set_defaults(run=show)

    command = commands.add_parser("upload", parents=[cache], help=upload.__doc__)
    command.add_argument("name", metavar="NAME", help="name in the cache, or its folder")
    command.add_argument("address", metavar="ADDRESS", help="s3://, gs:// or az://BUCKET/FOLDER")
    command.set_defaults(run=upload)

    command = commands.add_parser("tokenizer", parents=[text], help=train_tokenizer.__doc__)
    command.add_argument("out", metavar="OUT.json")
    command.add_argument("--vocab-size", type=int, required=True)
    command.set_defaults(run=train_tokenizer)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
