"""Files that are whole or not there: atomic writing, text as users save it, tensors with a digest, and the line that says what is wrong.
"""
import codecs
import hashlib
import json
import math
import os
import stat
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from .registry import near_names

__all__ = ['replacing', 'write_json', 'read_json', 'read_text', 'regular_file', 'save_tensors', 'load_tensors',
           'read_metadata', 'read_weights']


def regular_file(path: Path | str, what: str = 'a file') -> Path:
    "`path` if it is a regular file (no folder, pipe or device, which could hang); raises `FileNotFoundError` or `ValueError`"
    path = Path(path).expanduser()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise FileNotFoundError(f'{path} is not there: expected {what} ({error.strerror})') from None
    if not stat.S_ISREG(mode):
        raise ValueError(f'{path} is no regular file: expected {what}')
    return path


@contextmanager
def replacing(path: Path | str):
    """Gives the path of a temporary neighbour to write, then renames it over `path`: a file appears whole or not at all.

    Raises `OSError` in one line if it cannot be written; what was there before is kept.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
        temporary = Path(name)
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(handle, 0o666 & ~umask)  # mkstemp gives 0600; others may read our results
        os.close(handle)
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ == 'SafetensorError':
            raise OSError(f'{path} could not be written ({error}): free space or choose another folder; '
                          'what was there before is kept') from None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path | str, older_than: float = 3600.):
    "Delete temporary files that a killed process left in `folder`, if they are older than so many seconds"
    for left in Path(folder).glob('.*.tmp'):
        try:
            if time.time() - left.stat().st_mtime > older_than:
                left.unlink()
        except OSError:
            pass  # another process was faster


def write_json(path: Path | str, content):
    "Write JSON whole or not at all; `content` is what `json` can write, NaN and infinity are refused"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n', encoding='utf-8')


_BOMS = {codecs.BOM_UTF8: 'utf-8-sig', codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16'}


def read_text(path: Path | str, what: str = 'a text file') -> str:
    "A user's text file: UTF-8 or UTF-16 with or without a byte order mark, any line ends; raises `ValueError` with the line"
    content = regular_file(path, what).read_bytes()
    encoding = next((name for bom, name in _BOMS.items() if content.startswith(bom)), 'utf-8')
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b'\n') + 1
        raise ValueError(f'{path}, line {line}: not UTF-8 text; expected {what}, saved as UTF-8') from None
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
    """Write tensors (name -> tensor) and `meta` (what JSON can hold) to one safetensors file, whole or not at all.

    The metadata has one entry, `key`: their order would vary from file to file. It carries a digest of everything,
    which `load_tensors` checks.
    """
    from safetensors.torch import save_file
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    text = json.dumps(meta or {}, allow_nan=False)
    content = {'meta': text, 'sha256': _digest(tensors, text)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {key: json.dumps(content)})


def read_metadata(path: Path | str, key: str = 'meta') -> dict | None:
    """What `save_tensors` wrote beside the tensors, or None if the file has no entry `key`.

    Raises `ValueError` in one line for a file that is no whole safetensors file or whose entry is damaged.
    """
    return _read_entry(path, key)[0]


def _read_entry(path, key):
    "(meta or None, digest or None, its text) of a safetensors file; files from before the digest hold the bare `meta`"
    from safetensors import SafetensorError, safe_open
    regular_file(path, 'a .safetensors file')
    try:
        with safe_open(path, 'pt') as file:
            entry = (file.metadata() or {}).get(key)
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no whole safetensors file: {error}') from None
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
        raise ValueError(f'{path}: its metadata are damaged ({error}): make the file again') from None
    return content, None, entry


def load_tensors(path: Path | str, key: str = 'meta') -> tuple[dict, dict | None]:
    "(tensors, meta) of a safetensors file; raises `ValueError` in one line if a byte is not as `save_tensors` wrote it"
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    meta, digest, text = _read_entry(path, key)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f'{path} is no whole safetensors file: {error}') from None
    if digest is not None and _digest(tensors, text) != digest:
        raise ValueError(f'{path} is damaged: its content is not what was written; delete it, or make it again')
    return tensors, meta


_WRAPPERS = ('state_dict_ema', 'model_ema', 'params_ema', 'state_dict', 'model_state_dict', 'model', 'params', 'net')


def read_weights(path: Path | str) -> dict:
    """The tensors of a weight file by name: safetensors, or a PyTorch file of tensors. Nothing in the file is run.

    A state dict that other things surround (`{'model': …, 'epoch': 3}`) is taken out of them, and the prefix
    `module.` of parallel training is dropped. Raises `FileNotFoundError` with the names beside it, or `ValueError`
    for a file that is damaged, holds no tensors or something else, or has NaN or infinity among its weights.
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
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f'{path} holds more than tensors by name: save the state_dict alone')
    if not content:
        raise ValueError(f'{path} holds no tensors: expected the weights of a model')
    for name, tensor in content.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f'{path}: {name} holds NaN or infinity: the training that made it diverged, '
                             'or the file is damaged')
    if all(str(name).startswith('module.') for name in content):
        content = {name.removeprefix('module.'): tensor for name, tensor in content.items()}
    return content


def _beside(path):
    "What a message about a missing file says of its neighbours"
    if not path.parent.is_dir():
        return f'; nor is there a folder {path.parent}'
    near = near_names(path.name, [neighbour.name for neighbour in path.parent.iterdir()])
    return f'; beside it: {", ".join(near)}' if near else ''


def _load_state(path):
    "What a weight file holds, whatever its name ends in: safetensors begin with a length and '{'"
    import torch
    from safetensors.torch import load_file
    try:
        with open(path, 'rb') as file:
            is_safetensors = file.read(9)[8:] == b'{'
        if is_safetensors:
            return load_file(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch and safetensors raise some ten kinds
        size = path.stat().st_size
        raise ValueError(f'{path} ({size:,} bytes) cannot be read as weights ({type(error).__name__}): expected a whole '
                         '.safetensors, or a .pth that holds tensors and no other objects') from None
