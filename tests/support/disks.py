"""Disks that refuse: one so small that it fills up, and a limit on the length of files; disks of other kinds."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOUNT_TIMEOUT_S: Final = 60.0


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


# --- Disks of another kind ---------------------------------------------------------------------------------

KINDS: Final = ("vfat", "exfat", "overlay")
_TOOLS: Final = {
    "vfat": ("mkfs.vfat", "fusefat"),
    "exfat": ("mkfs.exfat", "losetup", "mount.exfat-fuse"),
    "overlay": (),
}


@contextlib.contextmanager
def disk_of(kind: str, place: Path) -> Iterator[Path]:
    """A disk with a file system of another kind, mounted in a new folder `disk`.

    By the driver of the kernel if it has one, else by FUSE. The test is skipped where that is impossible, and says
    why. What is mounted is unmounted whatever happens.

    Parameters
    ----------
    kind : {"vfat", "exfat", "overlay"}
        An overlay has `lower` in it, a folder below which its disk shows until it is changed.
    place : Path
        A folder for the image of the disk.
    """
    if sys.platform != "linux":
        pytest.skip("disks of other kinds are mounted as Linux does")
    with contextlib.ExitStack() as stack:
        disk = place / "disk"
        disk.mkdir(parents=True)
        if kind == "overlay":
            _mount(stack, place, "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place))
            disk.mkdir()
            folders = [place / name for name in ("lower", "upper", "work")]
            for folder in folders:
                folder.mkdir()
            options = "lowerdir={},upperdir={},workdir={}".format(*folders)
            _mount(stack, disk, "mount", "-t", "overlay", "-o", options, "overlay", str(disk))
        else:
            _mount_image(stack, kind, place / "image", disk)
        yield disk


def _mount_image(stack: contextlib.ExitStack, kind: str, image: Path, disk: Path) -> None:
    has_driver = re.search(rf"\t{kind}$", Path("/proc/filesystems").read_text(encoding="ascii"), re.MULTILINE)
    maker, *others = _TOOLS[kind]
    for tool in [maker] if has_driver else [maker, *others]:
        if shutil.which(tool) is None:
            pytest.skip(f"{kind} needs the command {tool}, which is not installed")
    image.touch()
    os.truncate(image, 40 << 20)
    _run(f"this machine cannot make a disk of {kind}", maker, *(("-F", "32") if kind == "vfat" else ()), str(image))
    if has_driver:
        _mount(
            stack, disk, "mount", "-t", kind, "-o", "loop,utf8" if kind == "vfat" else "loop", str(image), str(disk)
        )
    elif kind == "vfat":
        _mount(stack, disk, "fusefat", "-o", "rw+", str(image), str(disk))
    else:
        device = _run("this user may have no loop device", "losetup", "-f", "--show", str(image)).strip()
        stack.callback(_run, None, "losetup", "-d", device)
        _mount(stack, disk, "mount.exfat-fuse", device, str(disk))


@contextlib.contextmanager
def read_only(folder: Path, place: Path) -> Iterator[Path]:
    """The content of a folder, mounted a second time at a new place, where nothing can be written."""
    place.mkdir()
    with contextlib.ExitStack() as stack:
        _mount(stack, place, "mount", "--bind", str(folder), str(place))
        _run("this machine mounts nothing read-only", "mount", "-o", "remount,bind,ro", str(place))
        yield place


def _mount(stack: contextlib.ExitStack, disk: Path, *command: str) -> None:
    _run("this user may not mount a file system", *command)
    stack.callback(_run, None, "umount", "-l", str(disk))


def _run(reason: str | None, *command: str) -> str:
    """Run a command. If it fails the test is skipped for a reason, or fails where there is none."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"this system has no command {command[0]}")
    # A process of FUSE stays, and would keep a pipe open.
    with tempfile.TemporaryFile("w+") as output:
        finished = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=_MOUNT_TIMEOUT_S, check=False
        )
        output.seek(0)
        said = output.read()
    if finished.returncode and reason is not None:
        pytest.skip(f"{reason}: {said.strip()}")
    assert finished.returncode == 0, said
    return said
