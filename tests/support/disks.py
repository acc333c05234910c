"""Disks that refuse: one so small that it fills up, and a limit on the length of files."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 1 MiB, mounted at a new folder. The test is skipped where that is impossible."""
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("this system has no command that mounts a file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextlib.contextmanager
def files_no_longer_than(nbytes: int) -> Iterator[None]:
    """Let the operating system refuse to write more into any file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Otherwise the beginning of a compiled module could be kept, and break whoever imports it later.
    may_write, sys.dont_write_bytecode = not sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = not may_write
