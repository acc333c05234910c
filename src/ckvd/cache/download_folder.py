"""Where archives on their way lie: `download_folder`, which goes with all that is in it.

A folder is locked as long as somebody is at work in it, so that maintenance removes what dead processes left there
and nothing else, whatever the clock says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ckvd.cache.folder import DOWNLOAD_FOLDER_PREFIX, DOWNLOAD_LOCK_NAME
from ckvd.cache.locks import FileLock
from ckvd.errors import cannot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckvd.cache.folder import CacheFolder


@contextlib.contextmanager
def download_folder(folder: CacheFolder) -> Iterator[Path]:
    """A folder for archives on their way, in the folder of a cache, of this process alone.

    It is not made in a thread: whoever was cancelled meanwhile would not know of it. A forked child that leaves it
    leaves it to its parent.

    Raises
    ------
    CacheError
        The folder of the cache cannot be written.
    """
    process = os.getpid()
    folder.make_path(folder.root)
    try:
        place = Path(tempfile.mkdtemp(prefix=DOWNLOAD_FOLDER_PREFIX, dir=folder.root))
    except OSError as error:
        raise cannot("be written", folder.root, error) from error
    try:
        with FileLock(place / DOWNLOAD_LOCK_NAME, timeout_s=0):
            yield place
    finally:
        if os.getpid() == process:
            shutil.rmtree(place, ignore_errors=True)
