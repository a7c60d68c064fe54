"""A study that is kept in a bucket, copied to this machine to be read: its small files alone."""

from __future__ import annotations

import concurrent.futures
import tempfile
from pathlib import Path

WANTED = ("study.json", "config.json", "result.json", "curve.jsonl", "certificates/")
AT_ONCE = 32  # files under way at a time


def local(workdir: str | Path) -> Path:
    """The folder of a study; one at `s3://`, `gs://` or `az://` is copied first.

    Raises:
      FileNotFoundError: there is no study at the address, or it does not answer; one line.
    """
    if "://" not in str(workdir):
        return Path(workdir)
    import obstore

    folder = Path(tempfile.mkdtemp(prefix="bestiary-"))
    try:
        store = obstore.store.from_url(str(workdir), client_options={"allow_http": True})
        found = [meta["path"] for chunk in obstore.list(store) for meta in chunk]
        names = [name for name in found if any(word in name for word in WANTED)]

        def copy(name: str) -> None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(obstore.get(store, name).bytes()))

        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(copy, names))
    except (obstore.exceptions.BaseError, ValueError) as error:
        reason = str(error).split("\n")[0][:200]
        raise FileNotFoundError(f"{workdir} cannot be read: {reason}") from None
    return folder
