"""The file system: regular files only, names exchanged in one step, what a full disk says."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import stat
from io import BufferedReader
from pathlib import Path

_UMASK = os.umask(0)
os.umask(_UMASK)


def open_regular(path: Path | str, flags: int = os.O_RDONLY, *, follow: bool = True) -> int:
    """Open a regular file and nothing else: no pipe, no device, no folder; nothing ever waits.

    Args:
        path: The file.
        flags: Of ``os.open``.
        follow: Whether it may be a link to one.

    Returns:
        A file descriptor.

    Raises:
        OSError: It is something else, or cannot be opened.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o666)
    except ValueError as error:  # a zero byte, or a surrogate that stands for no byte
        raise OSError(f"no file can have that name: {error}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = IsADirectoryError if stat.S_ISDIR(mode) else OSError
        raise kind(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def reading(path: Path | str) -> BufferedReader:
    """Open a regular file to read bytes, see `open_regular`."""
    return open(open_regular(path), "rb")


def is_regular(path: Path | str) -> bool:
    """Return whether a file is regular, or a link to one: what a library may open itself."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def swap(new: Path, out: Path, aside: Path) -> None:
    """Put a file or a folder in the place of another, which is gone afterwards.

    A file, or an empty folder, is replaced in one step. A folder that holds something is exchanged
    for the new one in one step where the system can (Linux, ``renameat2``). Elsewhere it is renamed
    to ``aside`` first: its name is absent between two renames. A file never replaces a folder.

    Args:
        new: Complete, and on the disk.
        out: The final name.
        aside: Where the old folder goes where it cannot be exchanged; what is there is removed.
    """
    try:
        os.replace(new, out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _exchange(new, out):
            remove(new)
            return
        remove(aside)
        os.replace(out, aside)
        try:
            os.replace(new, out)
        except BaseException:
            os.replace(aside, out)
            raise
        remove(aside)


def _exchange(one: Path, two: Path) -> bool:
    """Exchange two names in one step; return False where the system cannot."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    names = (os.fsencode(one), os.fsencode(two))
    return bool(rename(here, names[0], here, names[1], ctypes.c_uint(exchange)) == 0)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with what it holds; nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path, *, deep: bool = False, name: str = "") -> None:
    """Remove temporary files of `atomic_write` whose process has ended.

    Args:
        folder: Locked by this process, or ``name`` is of a file that nobody else writes now.
        deep: Look into the folders below it too.
        name: Of the file that they were to replace; of any where it is empty.
    """
    pattern = f".{glob.escape(name)}.*.tmp" if name else ".*.tmp"
    found = folder.rglob(pattern) if deep else folder.glob(pattern)
    with contextlib.suppress(OSError):
        for path in found:
            process = path.name.split(".")[-2]
            status = path.lstat()
            if (
                process.isdecimal()
                and process.isascii()
                and stat.S_ISREG(status.st_mode)
                and not _runs(int(process))
            ):
                path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def as_usual(path: Path) -> None:
    """Give a file the permissions of any new file: safetensors makes its own for their owner alone.

    Others on a shared disk could not read an encoder otherwise.
    """
    path.chmod(0o666 & ~_UMASK)


def sync_tree(path: Path) -> None:
    """Make a file, or a folder with what it holds, durable."""
    for item in sorted(path.rglob("*"), reverse=True) if path.is_dir() else ():
        if not item.is_symlink():
            sync_folder(item)
    sync_folder(path)


_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
"""What only a disk says."""


def system_refusal(error: BaseException, folder: Path) -> OSError | None:
    """Return the refusal of a disk that an error stands for; None where it is another error.

    Safetensors and torch hide what the system said in texts of their own.

    Args:
        error: What a library raised.
        folder: Where it wrote.
    """
    if isinstance(error, OSError):
        return error
    text = str(error)
    if told := re.search(r"os error (\d+)", text):
        number = int(told[1])
        return OSError(number, os.strerror(number))
    if isinstance(error, RuntimeError) and re.search(r"file write failed|unexpected pos", text):
        free = os.statvfs(folder) if folder.is_dir() else None
        full = free is not None and free.f_bavail * free.f_frsize < 1 << 20
        return OSError(errno.ENOSPC if full else errno.EIO, " ".join(text.split())[:200])
    return None


def disk_refusal(error: BaseException, folder: Path) -> OSError | None:
    """Return `system_refusal` where no input can be its cause: a full or read-only disk."""
    refused = system_refusal(error, folder)
    return refused if refused is not None and refused.errno in _REFUSALS else None


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable, or the content of a file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
