"""How every command begins and ends: its flags in full words, and one line on stderr with exit
code 2 for what its user can mend.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable

from lm.config import ConfigError
from lm.data.readers import CorpusError

MENDABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST),  # a file where a folder is to be
)


def parser(module: str, description: str | None, epilog: str = "") -> argparse.ArgumentParser:
    """The flags of `python -m <module>`, which may not be abbreviated; texts keep their lines."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def guarded(run: Callable[[], int], *also: type[Exception], interrupted: str) -> int:
    """`run()`'s exit code; 2 after an error of the config, the corpus, the disk, the memory or of
    `also`, 130 after Ctrl-C, with the line `interrupted`.
    """
    try:
        return run()
    except (ConfigError, CorpusError, MemoryError, *also) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        where = "" if str(error.filename) in error.strerror else where
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 130
