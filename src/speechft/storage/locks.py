"""Folders that one process at a time works in: locked, waited for, with scratch of their own."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from speechft.console import log
from speechft.errors import RunError
from speechft.storage.disk import open_regular, sweep
from speechft.storage.files import write_error

LOCK_NAME = ".lock"
_GLANCE = 0.2
"""Seconds that a folder is tried at least: who only asks whether it is held has it for a moment."""

_patience: ContextVar[float] = ContextVar("patience", default=0.0)


@contextlib.contextmanager
def waiting(seconds: float = float("inf")) -> Iterator[None]:
    """Let folders that another process holds be waited for instead of refused."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def is_unwritable(error: BaseException | None) -> bool:
    """Return whether an error says, or was caused by one that says, that one may not write."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error is not None and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock ends with the process, however it ends.

    A folder that is made here and into which nothing is written is gone again afterwards. Temporary
    files that a killed process left are removed.

    Raises:
        RunError: Another process holds it and `waiting` is off, or did so for too long; the folder
            cannot be made, or its lock is no file.
    """
    made = not folder.exists()
    descriptor = _patiently_locked(folder)
    try:
        sweep(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            if made and [path.name for path in folder.iterdir()] == [LOCK_NAME]:
                (folder / LOCK_NAME).unlink()
                folder.rmdir()
        os.close(descriptor)


@contextlib.contextmanager
def lock_over(folder: Path) -> Iterator[None]:
    """Hold a folder as `lock` does, also where a process that is known to sleep holds it.

    That one's lock is void from now on: who comes next waits for this process.

    Raises:
        RunError: As `lock`.
    """
    with contextlib.ExitStack() as held:
        try:
            with waiting(0.0):
                held.enter_context(lock(folder))
        except RunError as error:
            if not is_busy(error):
                raise
            (folder / LOCK_NAME).unlink(missing_ok=True)
            held.enter_context(lock(folder))
        yield


def is_held(folder: Path) -> bool:
    """Return whether a process holds a folder, without keeping any other out of it.

    Raises:
        RunError: That cannot be told.
    """
    try:
        descriptor = open_regular(folder / LOCK_NAME, follow=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unknown(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise _unknown(folder, error) from error
    finally:
        os.close(descriptor)
    return False


def _unknown(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"whether a process is at work in {folder} cannot be told: {LOCK_NAME} there: "
        f"{error.strerror}",
        hint="ask as the user who works there, or look what it is",
    )


def is_busy(error: RunError) -> bool:
    """Return whether an error of `lock` says that another process holds the folder."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EWOULDBLOCK


def _patiently_locked(folder: Path) -> int:
    """Return the locked descriptor of a folder that is made where there is none, see `waiting`."""
    begun, told = time.monotonic(), False
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _locked(folder)
        except OSError as error:
            waited = time.monotonic() - begun
            if error.errno != errno.EWOULDBLOCK or waited >= max(_patience.get(), _GLANCE):
                raise lock_error(folder, error) from error
        if waited > 1 and not told:
            log(f"waiting for another process that works in {folder}")
            told = True
        time.sleep(0.05)


def lock_error(folder: Path, error: OSError) -> RunError:
    """Turn a lock that could not be had into an error with a hint."""
    if error.errno == errno.EWOULDBLOCK:
        return RunError(
            f"folder {folder} is in use by another process",
            hint="wait for it to end, or choose another folder with --out",
        )
    if error.errno in (errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EISDIR):
        return RunError(
            f"{folder / LOCK_NAME} is no lock of ours: a link, a pipe or a folder",
            hint="look who put it there, remove it, or choose another folder with --out",
        )
    return write_error(folder, error)


def _locked(folder: Path) -> int:
    """Return the locked descriptor of the folder's lock file, which nobody has replaced since."""
    path = folder / LOCK_NAME
    while True:
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, follow=False)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            own = os.fstat(descriptor)
            with contextlib.suppress(FileNotFoundError):
                now = path.lstat()
                if (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino):
                    return descriptor
            folder.mkdir(parents=True, exist_ok=True)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def make_scratch(folder: Path) -> None:
    """Make a folder for unfinished work, or take up one that an earlier process of ours made.

    Raises:
        RunError: A link or a file is there, it is another user's, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise write_error(folder, error) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        what = "a link" if stat.S_ISLNK(status.st_mode) else "not a folder of this user"
        raise RunError(
            f"{folder} is {what}; unfinished work is kept under that name",
            hint="look who put it there, remove it, or choose another folder with --out",
        )
