"""What a training reports about once a second in `progress.json`, and how a command shows it"""
import contextlib
import math
import sys
import threading
import time
from pathlib import Path

from .files import read_json

__all__ = ['progress', 'progress_line', 'showing']

COUNTS = ('epoch', 'epochs', 'batch', 'batches')
MEASURES = ('loss', 'images_per_s', 'time')


def progress(path: Path | str) -> dict | None:
    """What the run in folder `path` reported last: epoch, batch, loss, images_per_s, time …

    None: nothing yet, or nothing that makes sense.
    """
    try:
        report = read_json(Path(path) / 'progress.json', 'a progress report')
    except (OSError, ValueError):
        return None
    counts = [report.get(name) for name in COUNTS]
    measures = [report.get(name) for name in MEASURES]
    if report.get('seconds_left') is not None:
        measures.append(report['seconds_left'])
    if not all(type(count) is int and 0 <= count < 10**12 for count in counts):
        return None
    if not all(type(value) in (int, float) and math.isfinite(value) for value in measures):
        return None
    return report if report['epochs'] and report['batches'] else None


def progress_line(report: dict) -> str:
    "A report of `progress` in words"
    line = (f"epoch {report['epoch']}/{report['epochs']}, "
            f"batch {report['batch']}/{report['batches']}, "
            f"loss {report['loss']:.3f}, {report['images_per_s']:.0f} images/s")
    if report.get('seconds_left') is None:
        return line
    minutes, seconds = divmod(int(report['seconds_left']), 60)
    return f'{line}, {minutes}:{seconds:02} left'


@contextlib.contextmanager
def showing(path: Path | str, label: str = '', out=None):
    "Show how the run in folder `path` goes on: a bar on a terminal, else a line now and then"
    stop = threading.Event()
    args = (path, stop, label, out or sys.stderr)
    thread = threading.Thread(target=_show, args=args, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show(path, stop, label, out, every=30):
    "Show each new report until `stop` is set; what an earlier process reported is no news"
    began, last_line, seen = time.time(), 0., None
    while not stop.wait(.2):
        report = progress(path)
        if report is None or report == seen or report['time'] < began - 1:
            continue
        seen = report
        line = label + progress_line(report)
        if out.isatty():
            done = min(24, round(24 * report['batch'] / report['batches']))
            print(f"\r[{'#' * done:.<24}] {line}\x1b[K", end='', file=out, flush=True)
        elif time.time() - last_line > every or report['batch'] == report['batches']:
            print(line, file=out, flush=True)
            last_line = time.time()
    if out.isatty() and seen:
        print(file=out)
