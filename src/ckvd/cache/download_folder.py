"""`download_folder`: a folder for archives that are being downloaded. It is removed with all that is in it.

The folder stays locked while its process uses it. So only folders that dead processes left are removed
(`ckvd.cache.leftovers`), whatever the clock says.
"""

from __future__ import annotations

import contextlib
import errno as errno_codes
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ckvd.cache.folder import DOWNLOAD_FOLDER_PREFIX, DOWNLOAD_LOCK_NAME
from ckvd.cache.locks import FileLock
from ckvd.errors import CacheBusyError, CacheError, cannot
from ckvd.utils.config import FOLDER_ATTEMPTS_MAX

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
    place, lock = _make_locked(folder)
    try:
        yield place
    finally:
        if os.getpid() == process:
            # What cannot be removed is a leftover, which maintenance finds.
            shutil.rmtree(place, ignore_errors=True)
        lock.release()
        if os.getpid() == process:
            # NFS and FUSE keep a file that was removed while it was open, here the lock, under another name.
            with contextlib.suppress(OSError):
                place.rmdir()


def _make_locked(folder: CacheFolder) -> tuple[Path, FileLock]:
    """Make a folder, and acquire the lock in it."""
    for attempts_left in range(FOLDER_ATTEMPTS_MAX - 1, -1, -1):
        folder.make_path(folder.root)
        try:
            place = Path(tempfile.mkdtemp(prefix=DOWNLOAD_FOLDER_PREFIX, dir=folder.root))
        except OSError as error:
            raise cannot("be written", folder.root, error) from error
        lock = FileLock(place / DOWNLOAD_LOCK_NAME, timeout_s=0)
        try:
            lock.acquire()
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            # Another process may take it for a leftover in the moment before it is locked, and remove it.
            is_taken = isinstance(error, CacheError) and (
                isinstance(error, CacheBusyError) or error.errno == errno_codes.ENOENT
            )
            if not (is_taken and attempts_left):
                raise
        else:
            return place, lock
    raise AssertionError
