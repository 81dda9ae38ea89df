"""Who trains a run: a lock on its folder, which ends with the process that holds it, in any case.

The process that trains holds `lock`; the command that started it, and shows how it goes on, holds
`command.lock`.
"""
import contextlib
import fcntl
import os
import platform
import time
from pathlib import Path

__all__ = ['claim', 'commanding', 'wait_for_trainer', 'is_running']

_held = {}  # the locks of this process


def claim(path: Path | str, wait: float = 20) -> Path:
    """Lock a run's folder for this process, for as long as it lives, and return it.

    Waits up to `wait` seconds for a process that is ending; raises `RuntimeError` in one line, with
    who it is, if another one trains there.
    """
    path = Path(path)
    if path.resolve() not in _held:
        _held[path.resolve()] = _lock(path / 'lock', wait)
    return path


@contextlib.contextmanager
def commanding(path: Path | str, wait: float = 20):
    "Hold a run's folder while another process of ours trains there; raises as `claim` does"
    file = _lock(Path(path) / 'command.lock', wait)
    try:
        wait_for_trainer(path, wait)
        yield
    finally:
        file.close()


def wait_for_trainer(path: Path | str, wait: float = 20):
    "Wait until nobody trains in a run's folder, such as a process that outlives its command"
    end = time.time() + wait
    while _is_locked(Path(path) / 'lock'):
        if time.time() > end:
            raise _taken(Path(path) / 'lock')
        time.sleep(.2)


def is_running(path: Path | str) -> bool:
    "Whether some process trains in a run's folder, or is about to"
    return any(_is_locked(Path(path) / name) for name in ('lock', 'command.lock'))


def _lock(path, wait):
    "The open and locked file; who holds it is written there once it is held, not before"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, 'a+', encoding='utf-8')
    end = time.time() + wait
    while not _try(file, fcntl.LOCK_EX):
        if time.time() > end:
            file.close()
            raise _taken(path)
        time.sleep(.2)
    with contextlib.suppress(OSError):  # a full disk is no reason not to lock
        file.truncate(0)
        file.write(f'process {os.getpid()} on {platform.node()}')
        file.flush()
    return file


def _try(file, how):
    "Lock an open file, if nobody else has"
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path):
    "Whether somebody holds the lock; those who only look do not see each other"
    try:
        with open(path, encoding='utf-8') as file:
            return not _try(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _taken(path):
    "The error that says who holds a lock"
    who = path.read_text(encoding='utf-8', errors='replace')
    who = who if who.isprintable() and 0 < len(who) < 200 else 'another process'
    run = path.resolve().parent.name
    return RuntimeError(f'{run} is being trained by {who}: wait for it, or stop it')
