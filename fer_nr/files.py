"""Files that are whole or not there: atomic writing, text as users save it, tensors with a
digest, images that are decoded once, and the line that says what is wrong.
"""
import codecs
import hashlib
import json
import multiprocessing
import os
import re
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .registry import near_names

__all__ = ['printable', 'regular_file', 'file_sha256', 'replacing', 'remove_leftovers',
           'write_json', 'read_json', 'text_encoding', 'read_text', 'save_tensors', 'load_tensors',
           'read_metadata', 'read_weights', 'check_tensors', 'cores', 'in_processes',
           'new_images', 'write_images', 'blank_images', 'decode_once']


def printable(text) -> str:
    "A name fit for a message: control characters, and bytes that are no UTF-8, are escaped"
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in str(text))


def regular_file(path: Path | str, what: str = 'a file') -> Path:
    "`path` if it is a regular file: a pipe could hang; raises `FileNotFoundError`, `ValueError`"
    path = Path(path).expanduser()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise FileNotFoundError(f'{printable(path)} is not there: expected {what} '
                                f'({error.strerror})') from None
    if not stat.S_ISREG(mode):
        raise ValueError(f'{printable(path)} is no regular file: expected {what}')
    return path


def file_sha256(path: Path | str) -> str:
    "SHA-256 of a file's bytes, 64 hex digits"
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


@contextmanager
def replacing(path: Path | str):
    """Gives the path of a temporary neighbour to write, then renames it over `path`.

    So a file appears whole or not at all.

    Raises `OSError` in one line if it cannot be written; what was there before is kept.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # a temporary file is for its owner alone
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ == 'SafetensorError':
            raise OSError(f'{path} could not be written ({error}): free space or choose another '
                          'folder; what was there before is kept') from None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path | str, older_than: float = 3600.):
    """Delete temporary files that a killed process left, if they are older than so many seconds.

    They are called as `replacing` and, below it, safetensors call them.
    """
    for left in Path(folder).glob('.*'):
        if not re.fullmatch(r'\..*\.tmp|\.tmp\w{6}', left.name):
            continue
        try:
            if time.time() - left.stat().st_mtime > older_than:
                left.unlink()
        except OSError:
            pass  # another process was faster


def write_json(path: Path | str, content):
    "Write JSON whole or not at all; `content`: what `json` can write, but no NaN or infinity"
    with replacing(path) as temporary:
        text = json.dumps(content, indent=1, allow_nan=False)
        temporary.write_text(text + '\n', encoding='utf-8')


def text_encoding(start: bytes) -> str:
    "The encoding of a text by its first four bytes: UTF-16 or UTF-8, with a mark or without"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return 'utf-16'
    if start[:4:2] == b'\0\0':  # UTF-16 without a mark: every other byte of plain text is zero
        return 'utf-16-be'
    if start[1:4:2] == b'\0\0':
        return 'utf-16-le'
    return 'utf-8-sig'


def read_text(path: Path | str, what: str = 'a text file') -> str:
    "A user's text file: UTF-8 or UTF-16, any line ends; raises `ValueError` with the line"
    content = regular_file(path, what).read_bytes()
    encoding = text_encoding(content[:4])
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b'\n') + 1
        raise ValueError(f'{path}, line {line}: no UTF-8 text; expected {what}, as UTF-8') from None
    return text.replace('\r\n', '\n').replace('\r', '\n')


def read_json(path: Path | str, what: str = 'JSON') -> dict:
    "A mapping from a JSON file; raises `ValueError` or `FileNotFoundError` in one line"
    try:
        content = json.loads(read_text(path, what))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f'{path} is not JSON or is damaged ({error}): expected {what}') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected {what}, a mapping, found {type(content).__name__}')
    return content


def _digest(tensors: dict, meta: str) -> str:
    "SHA-256 of names, types, shapes and bytes of tensors, and of the text beside them"
    import torch
    sha = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        sha.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return sha.hexdigest()


def save_tensors(path: Path | str, tensors: dict, meta: dict | None = None, key: str = 'meta'):
    """Write tensors {name: tensor} and `meta` (what JSON can hold) to one safetensors file.

    It appears whole or not at all. The metadata has one entry, `key`: their order would vary from
    file to file. It carries a digest of everything, which `load_tensors` checks.
    """
    from safetensors.torch import save_file
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    text = json.dumps(meta or {}, allow_nan=False)
    content = {'meta': text, 'sha256': _digest(tensors, text)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {key: json.dumps(content)})


@contextmanager
def _opened(path: Path | str):
    "A safetensors file, to read metadata and tensors of one and the same; `ValueError` in one line"
    from safetensors import SafetensorError, safe_open
    regular_file(path, 'a .safetensors file')
    try:
        with safe_open(path, 'pt') as file:
            yield file
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no whole safetensors file: {error}') from None


def _entry(file, path, key):
    "(meta or None, digest or None, text); files from before the digest hold the bare `meta`"
    entry = (file.metadata() or {}).get(key)
    if entry is None:
        return None, None, ''
    try:
        content = json.loads(entry)
        if not isinstance(content, dict):
            raise ValueError('not a mapping')
        if set(content) == {'meta', 'sha256'} and isinstance(content['meta'], str):
            meta = json.loads(content['meta'])
            return meta, content['sha256'], content['meta']
        if 'sha256' in content or isinstance(content.get('meta'), str):
            raise ValueError('one of its names is misspelt')
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: its metadata are damaged ({error}): make it again') from None
    return content, None, entry


def read_metadata(path: Path | str, key: str = 'meta') -> dict | None:
    """What `save_tensors` wrote beside the tensors, or None if the file has no entry `key`.

    Raises `ValueError` in one line for what is no whole safetensors file or has a damaged entry.
    """
    with _opened(path) as file:
        return _entry(file, path, key)[0]


def load_tensors(path: Path | str, key: str = 'meta') -> tuple[dict, dict | None]:
    "(tensors, meta) of a file; raises `ValueError` if a byte is not as `save_tensors` wrote it"
    with _opened(path) as file:
        meta, digest, text = _entry(file, path, key)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if digest is not None and _digest(tensors, text) != digest:
        raise ValueError(f'{path} is damaged: its content is not what was written; make it again')
    return tensors, meta


_WRAPPERS = ('state_dict_ema', 'model_ema', 'params_ema', 'state_dict', 'model_state_dict', 'model',
             'params', 'net')


def read_weights(path: Path | str) -> dict:
    """The tensors of a weight file by name, of safetensors or PyTorch; nothing in it is run.

    A state dict among other things (`{'model': …, 'epoch': 3}`) is taken out, and the prefix of
    wrapped models is dropped. Raises `FileNotFoundError` with the names beside it, or `ValueError`
    for a file that is damaged, holds no tensors or something else, or has NaN or infinity among its
    weights.
    """
    import torch
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f'no weight file {path}{_beside(path)}')
    content = _load_state(regular_file(path, 'a weight file'))
    while isinstance(content, dict):
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if wrapper is None:
            break
        content = content[wrapper]
    is_mapping = isinstance(content, dict)
    if not is_mapping or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f'{path} holds more than tensors by name: save the state_dict alone')
    check_tensors(path, content)
    for prefix in ('module.', '_orig_mod.'):
        if all(str(name).startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return content


def check_tensors(path: Path | str, tensors: dict):
    "Raises `ValueError` for a weight file without tensors, or with such as are no weights"
    import torch
    if not tensors:
        raise ValueError(f'{path} holds no tensors: expected the weights of a model')
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            values = tensor if tensor.element_size() > 1 else tensor.float()
            if not values.isfinite().all():
                raise ValueError(f'{path}: {name} holds NaN or infinity: '
                                 'the training that made it diverged, or the file is damaged')
            continue
        is_index = tensor.dtype in (torch.int32, torch.int64)  # of positions, or a counter
        if not is_index or str(name).endswith(('weight', 'bias')):
            raise ValueError(f'{path}: {name} is {tensor.dtype}: '
                             'expected floating-point weights, not quantised ones')


def _beside(path):
    "What a message about a missing file says of its neighbours"
    if not path.parent.is_dir():
        return f'; nor is there a folder {path.parent}'
    near = near_names(path.name, [neighbour.name for neighbour in path.parent.iterdir()])
    return f'; beside it: {", ".join(near)}' if near else ''


def _load_state(path):
    "What a weight file holds, whatever its name ends in: safetensors begin with a length and '{'"
    import torch
    with open(path, 'rb') as file:
        is_safetensors = file.read(9)[8:] == b'{'
    if is_safetensors:
        return load_tensors(path, 'fer_nr')[0]
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises some ten kinds
        size = path.stat().st_size
        raise ValueError(f'{path} ({size:,} bytes) cannot be read as weights '
                         f'({type(error).__name__}): expected a whole .safetensors, or a .pth that '
                         'holds tensors and no other objects') from None


# --- several processes ---------------------------------------------------------------------


def _start_worker(parent: int):
    "In a worker: leave Ctrl-C to the parent, and end when it ends (a killed one tells nobody)"
    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


def cores() -> int:
    "Processors that this process may use"
    if hasattr(os, 'sched_getaffinity'):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(function: Callable, pieces: list[tuple], what: str, each: int = 1) -> Iterator:
    """Results of `function(*piece)`, in order, computed in as many processes as there are cores.

    `what` and `each` (faces in a piece) are for the progress bar. Raises `RuntimeError` if a
    process was killed, and the first error of a piece without its traceback.
    """
    from tqdm import tqdm
    workers = min(cores(), len(pieces))
    bar = dict(total=len(pieces), desc=what, unit=' faces', unit_scale=each, delay=1)
    if workers < 2:
        yield from tqdm((function(*piece) for piece in pieces), **bar)
        return
    # forked on Linux, as a fresh interpreter would spend seconds importing torch
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else None)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),))
    try:
        yield from tqdm(pool.map(function, *zip(*pieces)), **bar)
    except BrokenProcessPool:
        raise RuntimeError(f'{what}: a worker process was killed, most likely for want of '
                           'memory') from None
    except (ValueError, OSError) as error:
        raise type(error)(str(error)) from None
    finally:
        pool.shutdown(cancel_futures=True)


# --- images that are decoded once ----------------------------------------------------------

CHECKED_BELOW = 1 << 30  # bytes; a larger cache is not hashed again whenever it is opened


def new_images(path: Path | str, shape: tuple) -> np.ndarray:
    """A new npy file for uint8 images of this shape, memory-mapped, its space already taken.

    Writing to a map of a file for which the disk has no room ends a process without a message;
    so the room is asked for first, which raises `OSError`.
    """
    images = np.lib.format.open_memmap(path, 'w+', np.uint8, shape)
    if hasattr(os, 'posix_fallocate'):
        with open(path, 'r+b') as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    return images


def blank_images(images: np.ndarray) -> list[int]:
    "Positions of images (N, C, H, W) all of whose pixels are equal"
    flat = images.reshape(len(images), -1)
    if flat.shape[1] < 2:  # labels, written as images of one pixel
        return []
    return np.flatnonzero(flat.min(1) == flat.max(1)).tolist()


def _write_piece(path, start, decode, arguments):
    "In a worker process: decode some images into their place; positions of the blank ones"
    images = decode(*arguments)
    np.load(path, mmap_mode='r+')[start:start + len(images)] = images
    return [start + position for position in blank_images(images)]


def write_images(path: Path | str, shape: tuple, decode: Callable, pieces: list[tuple], each: int,
                 what: str) -> dict:
    """Fill the new npy file `path` with the images that `decode(*piece)` returns, in order.

    Each piece, but for the last, gives `each` images. Returns the fact that `decode_once` keeps:
    `blank`, the positions of blank images.
    """
    new_images(path, shape)
    work = [(path, number * each, decode, piece) for number, piece in enumerate(pieces)]
    blank = in_processes(_write_piece, work, what, each)
    return dict(blank=[position for some in blank for position in some])


def _cache_folder(root: Path, cache: Path | str | None) -> Path:
    "`cache`; or the first that is writable: beside the data, the user's, the temporary folder"
    user = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    folders = [Path(root) / '.fer_nr', user / 'fer_nr', Path(tempfile.gettempdir()) / 'fer_nr']
    if cache:
        folders = [Path(cache).expanduser()]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            pass
    raise PermissionError(f'{folders[-1]}: cannot write the decoded images there; expected a '
                          'folder that can be written, as cache=…')


def _stat_key(files: list, how: str) -> str:
    "Changes whenever a file is written, replaced or moved; looks at no content"
    sha = hashlib.sha256(how.encode())
    for file in files:
        try:
            found = os.stat(file)
        except OSError:
            raise FileNotFoundError(f'{printable(file)}: not found, but it is named in the '
                                    'list of the data set') from None
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f'{printable(file)}: no regular file; expected one to read')
        line = f'{file} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\n'
        sha.update(line.encode(errors='surrogateescape'))
    return sha.hexdigest()


def _content_key(files: list, root: Path, how: str) -> str:
    "Changes with names and bytes of the files, wherever their folder `root` lies"
    with ThreadPoolExecutor() as threads:
        digests = list(threads.map(file_sha256, files))
    lines = [f'{os.path.relpath(file, root)} {digest}' for file, digest in zip(files, digests)]
    return hashlib.sha256('\n'.join([how, *lines]).encode(errors='surrogateescape')).hexdigest()


def _known_content(folder, kind, source):
    "Content key that a note of this kind has for `source`, a key by `_stat_key`; None if none has"
    for path in folder.glob(f'{kind}-*.json'):
        try:
            note = read_json(path)
        except (ValueError, OSError):
            continue
        if source in note.get('sources', ()):
            return note['content']


def _facts_sha256(facts) -> str:
    "A digest of what a note tells beside the images: a damaged one could move a face's label"
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _open_cache(path, content):
    "(images, note) of a cache; None if it is absent, unfinished, damaged or not ours"
    try:
        note = read_json(path.with_suffix('.json'))
        if note['content'] != content or note['size'] != path.stat().st_size:
            return None
        if note['facts_sha256'] != _facts_sha256(note['facts']):
            return None
        if note['size'] < CHECKED_BELOW and note['sha256'] != file_sha256(path):
            return None
        return np.load(path, mmap_mode='c'), note
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whatever is wrong with it, the sources are there to decode again


def decode_once(kind: str, root: Path, files: list, write: Callable,
                cache: Path | str | None = None, how: str = '') -> tuple[np.ndarray, dict]:
    """(images uint8 (N, C, H, W), memory-mapped, facts) that `write(path)` decodes from `files`.

    The cache, `{kind}-….npy` with a json beside it, is known by the content of `files` (below the
    folder `root`) and by `how` they are decoded. The json remembers which files, by size and time
    of change, had that content, so that they are not read again; and the facts that `write`
    returned (what JSON can hold). Both have digests: a cache that is not whole is made again.
    Raises `OSError` in one line if it cannot be written.
    """
    folder = _cache_folder(root, cache)
    source = _stat_key(files, f'{kind} {how}')
    content = _known_content(folder, kind, source) or _content_key(files, root, how)
    path = folder / f'{kind}-{content[:16]}.npy'
    cached = _open_cache(path, content)
    if cached is None:
        remove_leftovers(folder)
        with replacing(path) as temporary:
            facts = write(temporary)
            note = dict(content=content, sha256=file_sha256(temporary), facts=facts,
                        facts_sha256=_facts_sha256(facts), size=temporary.stat().st_size,
                        sources=[])
        write_json(path.with_suffix('.json'), note)
        cached = np.load(path, mmap_mode='c'), note
    images, note = cached
    if source not in note['sources']:
        write_json(path.with_suffix('.json'), note | dict(sources=[*note['sources'][-9:], source]))
    return images, note['facts']
