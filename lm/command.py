"""How every command ends: what its user can mend is one line on stderr and exit code 2."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from lm.config import ConfigError
from lm.data.readers import CorpusError

MENDABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST),  # a file where a folder is to be
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
