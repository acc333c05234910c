"""`download_folder`: a folder for archives that are being downloaded. It is removed with all that is in it.

The folder stays locked while its process uses it. So maintenance removes only folders that dead processes left,
whatever the clock says.
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
    """A folder of this process, in the folder of a cache, for archives that are being downloaded.

    Enter it in the thread of the caller: a task that is cancelled while another thread makes the folder would never
    remove it. A forked child that leaves the block does not remove the folder of its parent.

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
