"""What lies where: files under other names or a folder deeper, folders of splits and classes.

What is unmistakable is found, what is not understood is refused by name, what is left out is said.
"""
import os
import re
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

from .files import printable
from .pictures import ENDINGS, is_picture
from .csv_tables import check_name, plain

__all__ = ['existing', 'folder_at', 'visible', 'find_below', 'contents', 'by_stem', 'split_of',
           'scan', 'class_folders', 'split_folders', 'check_classes', 'say_left_out']

JUNK = ('__macosx', '@eadir', '$recycle.bin', '__pycache__', 'system volume information')
ARCHIVES = ('.zip', '.gz', '.tgz', '.tar', '.7z', '.rar')


def existing(path, what: str) -> Path:
    "A user's path, may begin with ~; raises `FileNotFoundError`, `ValueError`: what is expected"
    if not isinstance(path, (str, os.PathLike)) or not str(path).strip():
        raise ValueError(f'path={path!r}: expected {what}')
    path = Path(path).expanduser()
    if not os.path.lexists(path):
        raise FileNotFoundError(f'{printable(path)}: not found; expected {what}')
    if not path.is_dir() and not path.is_file():
        raise ValueError(f'{printable(path)}: a link to nowhere, a pipe or a device; expected '
                         f'{what}')
    return path


def folder_at(path, what: str) -> Path:
    "A user's folder; raises `FileNotFoundError`, or `NotADirectoryError` for a file"
    path = existing(path, what)
    if not path.is_dir():
        hint = ', unpack it first' if path.suffix.casefold() in ARCHIVES else ''
        raise NotADirectoryError(f'{printable(path)}: a file{hint}; expected {what}')
    return path


def visible(folder: Path) -> list:
    "[`os.DirEntry`] of a folder by name, without hidden ones and what systems leave behind"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise type(error)(f'{printable(folder)}: cannot be read ({error.strerror})') from None
    return [entry for entry in entries
            if not entry.name.startswith('.') and entry.name.casefold() not in JUNK]


def find_below(folder: Path, *names: str, depth: int = 2) -> Path | None:
    """The file or folder of one of these names (lower case, the preferred first), in any case.

    Looks `depth` folders down, level by level; None if there is none. Raises `ValueError` if there
    are two.
    """
    level = [folder]
    for _ in range(depth + 1):
        entries = [entry for place in level for entry in visible(place)]
        for name in names:
            found = [entry.path for entry in entries if entry.name.casefold() == name]
            if len(found) > 1:
                places = ', '.join(printable(path) for path in found[:3])
                raise ValueError(f'{printable(folder)}: {name} is there {len(found)} times '
                                 f'({places}); expected it once')
            if found:
                return Path(found[0])
        level = [entry.path for entry in entries if entry.is_dir()]


def contents(folder: Path) -> str:
    "What lies in a folder, for a message"
    names = [printable(entry.name) for entry in visible(folder)]
    if len(names) > 6:
        names[6:] = [f'and {len(names) - 6} more']
    return f'found {", ".join(names) or "nothing"}'


def by_stem(folder: Path) -> dict:
    "{name without ending: path} of a folder's pictures; raises `ValueError` for two of one name"
    found = {}
    for entry in visible(folder):
        stem, ending = os.path.splitext(entry.name)
        if ending.casefold() in ENDINGS and stem in found:
            raise ValueError(f'{printable(entry.path)}: {printable(found[stem].name)} is there, '
                             'too; expected one picture of a name')
        if ending.casefold() in ENDINGS:
            found[stem] = Path(entry.path)
    return found


# --- splits and classes --------------------------------------------------------------------

SPLIT_NAMES = dict(
    train=('train', 'training', 'trn'),
    valid=('valid', 'val', 'validation', 'validate', 'dev', 'development', 'publictest'),
    test=('test', 'testing', 'tst', 'privatetest'))


def split_of(name: str) -> str | None:
    "The split that a folder or a Usage is named for, in any case: train, valid, test; None: none"
    words = plain(name)
    words = re.sub('^(fer2013plus|fer2013|ferplus|rafdb|affectnet)', '', words)
    words = re.sub('(set|data|images|faces|split|folder)$', '', words)
    return next((split for split, names in SPLIT_NAMES.items() if words in names), None)


def scan(folder: Path, left: Counter) -> tuple[list, list]:
    """(folders, pictures) that a folder holds, by name; adds to `left` what is neither, by ending.

    Raises `ValueError` for names that cannot be printed, and for links to nowhere and devices that
    are called like a picture.
    """
    folders, pictures = [], []
    entries = visible(folder)
    hidden = len(set(os.listdir(folder)) - {'.fer_nr'}) - len(entries)
    left['hidden'] += hidden
    for entry in entries:
        check_name(entry.name, printable(folder))
        ending = os.path.splitext(entry.name)[1].casefold()
        if entry.is_dir():
            folders.append(entry.name)
        elif not entry.is_file() and ending in ENDINGS:
            raise ValueError(f'{printable(entry.path)}: a link to nowhere, a pipe or a device; '
                             'expected a picture file')
        elif entry.is_file() and is_picture(entry.path):
            pictures.append(entry.name)
        else:
            left[ending or 'without ending'] += 1
    return folders, pictures


def holds_picture(folder: Path) -> bool:
    "Is there a picture in a folder or anywhere below it?"
    folders, pictures = scan(folder, Counter())
    return bool(pictures) or any(holds_picture(folder / name) for name in folders)


def below_single(folder: Path) -> Path:
    "Where classes or splits lie: down, while there is but one folder, and folders in that"
    folders, pictures = scan(folder, Counter())
    if pictures or len(folders) != 1 or split_of(folders[0]):
        return folder
    inner_folders, inner_pictures = scan(folder / folders[0], Counter())
    if inner_pictures or not inner_folders:
        return folder
    return below_single(folder / folders[0])


def class_folders(folder: Path, left: Counter) -> dict:
    "{class folder: [picture files]}; raises `ValueError` for what is no folder of class folders"
    where = printable(folder)
    folders, pictures = scan(folder, left)
    if pictures:
        raise ValueError(f'{where}: {len(pictures):,} pictures lie beside class folders, the first '
                         f'{pictures[0]}; expected each in the folder of its class')
    words = {plain(name).rstrip('s') for name in folders}
    if folders and words <= {'image', 'label', 'annotation'}:
        raise ValueError(f"{where}: {' and '.join(folders)} are no classes (YOLO's layout?); "
                         'expected a folder for each class')
    classes = {}
    for name in folders:
        inner, pictures = scan(folder / name, left)
        nested = [one for one in inner if holds_picture(folder / name / one)]
        if nested:
            raise ValueError(f'{where}/{name}: a folder of folders ({", ".join(nested[:3])}); '
                             'expected the pictures of one class')
        if not pictures:
            raise ValueError(f'{where}/{name}: no picture in it; expected some of this class, or '
                             'no such folder')
        classes[name] = [folder / name / picture for picture in pictures]
    if not classes:
        raise ValueError(f'{where}: no class folder with pictures; {contents(folder)}')
    return classes


def split_folders(path: Path, left: Counter) -> dict:
    """{split: {class folder: [picture files]}}; without folders of splits all of it is `train`.

    Raises `ValueError` for folders beside those of the splits, two of one split, and no train.
    """
    path = below_single(path)
    where = printable(path)
    folders, pictures = scan(path, left)
    named = {folder: split_of(folder) for folder in folders}
    if not any(named.values()):
        left.clear()
        return dict(train=class_folders(path, left))
    strange = [name for name, split in named.items() if not split and holds_picture(path / name)]
    if strange or pictures:
        found = ', '.join(strange[:5] or pictures[:5])
        splits = ', '.join(name for name in folders if named[name])
        raise ValueError(f'{where}: {found} beside the splits {splits}; expected splits only, with '
                         'the classes in them')
    found = [split for split in named.values() if split]
    if len(set(found)) < len(found) or 'train' not in found:
        raise ValueError(f'{where}: the folders {", ".join(folders)}; expected one to train on, '
                         'and at most one each for validation and test')
    return {split: class_folders(below_single(path / name), left)
            for name, split in named.items() if split}


def _letters(name):
    "A name without what the eye may miss: capitals, spaces, how an accent is encoded"
    return ''.join(unicodedata.normalize('NFC', name).casefold().split())


def check_classes(splits: dict, where: str):
    "Refuse splits whose class folders differ: some would be tested that were never trained"
    train = list(splits['train'])
    folded = Counter(name.casefold() for name in train)
    twins = [name for name in train if folded[name.casefold()] > 1]
    if twins:
        raise ValueError(f'{where}: the classes {", ".join(twins)} differ in capital letters '
                         'alone; expected one folder for each class')
    for split, classes in splits.items():
        if set(classes) != set(train):
            hint = 'vocab=(…) if one may be missing'
            if {name.casefold() for name in classes} == {name.casefold() for name in train}:
                hint = 'only capital letters differ'
            elif {_letters(name) for name in classes} == {_letters(name) for name in train}:
                hint = 'only letters or spaces differ that look alike'
            raise ValueError(f'{where}: train has the classes {", ".join(train)}, but {split} has '
                             f'{", ".join(classes)}; expected the same ({hint})')


def say_left_out(left: Counter, where):
    "Say once what was not read, by ending"
    counts = ', '.join(f'{n:,} {printable(ending)}' for ending, n in sorted(left.items()) if n)
    if counts:
        warnings.warn(f'{printable(where)}: left out: {counts}', stacklevel=4)
