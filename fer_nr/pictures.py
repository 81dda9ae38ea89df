"""Picture files of any kind to uint8 arrays of one size: whole, upright, never stretched."""
import os
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .files import printable, regular_file

__all__ = ['ENDINGS', 'FORMATS', 'as_bytes', 'eight_bits', 'upright', 'decoded', 'open_picture',
           'square_pixels', 'picture', 'can_read', 'is_picture']

ENDINGS = ('.jpg .jpeg .jpe .jfif .png .bmp .dib .webp .tif .tiff .gif .pgm .ppm .pbm .pnm '
           '.jp2 .j2k .avif .tga').split()
# what photographs come in: a PostScript file called face.png would be a program
FORMATS = 'JPEG PNG BMP DIB WEBP TIFF GIF PPM JPEG2000 AVIF TGA'.split()
Image.init()
FORMATS = [name for name in FORMATS if name in Image.OPEN]  # those that this Pillow can read


def as_bytes(values: np.ndarray, bits: int = 16) -> np.ndarray:
    """Pixel values as uint8; `bits`: the depth of whole numbers that are not uint8.

    Floats are taken for [0, 1], or else for [0, 255]. Raises `ValueError` where it is not known
    what is white: also for 16 bits of which no more than 12 are used.
    """
    if values.dtype == np.uint8:
        return values
    expected = (f'expected uint8, whole numbers that fill {bits} bits, or finite floats in [0, 1] '
                'or [0, 255]')
    if values.dtype.kind not in 'iuf':
        raise ValueError(f'pixels are {values.dtype}: {expected}')
    low, high = values.min(), values.max()
    least = 2**12 if bits == 16 else 0
    if values.dtype.kind == 'f' and 0 <= low and high <= 255:
        scale = 255 if high <= 1 else 1
    elif values.dtype.kind in 'iu' and 0 <= low and (high == 0 or least <= high < 2**bits):
        scale = 255 / (2**bits - 1)
    else:
        raise ValueError(f'pixels are {values.dtype} from {low:g} to {high:g}, so that it is not '
                         f'known what is white: {expected}')
    return (values.astype(float) * scale).round().astype(np.uint8)


def eight_bits(image: Image.Image, source: Image.Image) -> Image.Image:
    """A picture of any depth with 8 bits a channel; `source`: as opened, with format and tags.

    16 bits are scaled by the depth that the file states, floats as `as_bytes` says. Raises
    `ValueError` where it is not known what is white.
    """
    tags = getattr(source, 'tag_v2', {})
    if image.mode.startswith('I;16') or image.mode == 'I' and source.format in ('PNG', 'PPM'):
        values = as_bytes(np.asarray(image), bits=tags.get(258, (16,))[0])
        if tags.get(262) == 0:  # a TIFF in which 0 is white
            values = 255 - values
    elif image.mode == 'F':
        values = as_bytes(np.asarray(image))
    elif image.mode == 'I':
        raise ValueError('whole numbers of 32 bits, so that it is not known what is white')
    elif image.mode == 'LAB':
        raise ValueError('colours as L*a*b*, which cannot be converted')
    else:
        return image
    return Image.fromarray(values)


def upright(image: Image.Image) -> Image.Image:
    "A picture turned as its camera says, with 8 bits a channel; raises as `eight_bits` does"
    return eight_bits(ImageOps.exif_transpose(image), image)


def decoded(file) -> Image.Image:
    """A whole picture, `upright`, from a path or an opened file; of an animation the first.

    Raises `ValueError`: why it is none, in one line without the file's name.
    """
    try:
        with Image.open(file, formats=FORMATS) as source:
            source.load()
            return upright(source)
    except UnidentifiedImageError:
        raise ValueError(f"found none of {', '.join(FORMATS)}") from None
    except Exception as error:
        why = ' '.join(str(error).split()).replace(repr(str(file)), '').strip()
        raise ValueError(printable(why) or type(error).__name__) from None


def open_picture(file) -> Image.Image:
    """A whole picture file, upright as its camera says, with 8 bits a channel.

    Raises `ValueError` for what is none, or too large to be one (a decompression bomb).
    """
    regular_file(file, 'a picture')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            return decoded(file)
    except ValueError as error:
        raise ValueError(f'{printable(file)}: not a readable image ({error}); expected a complete '
                         'picture file') from None


def square_pixels(image: Image.Image, channels: int, size: int) -> np.ndarray:
    """A picture as uint8 (channels, size, size); `channels`: 1 (grey) or 3.

    Another shape is cut to a centred square: stretching would change the face.
    """
    image = image.convert('L' if channels == 1 else 'RGB')
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = np.array(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def picture(file, box=None, size: int = 48, grey: bool = False, exact: bool = False) -> np.ndarray:
    """One picture file as uint8 (C, size, size); `box`: x, y, width, height of the face in pixels.

    Another shape is cut as `square_pixels` does; `exact`: it must have this size. Raises
    `ValueError`: the file and what is wrong with it.
    """
    image = open_picture(file)
    found = f'{image.width}×{image.height}'
    if exact and image.size != (size, size):
        raise ValueError(f'{printable(file)}: {found} pixels, expected {size}×{size}')
    if box is not None:
        x, y, width, height = map(int, box)
        left, top = max(0, x), max(0, y)
        right, bottom = min(image.width, x + width), min(image.height, y + height)
        if right <= left or bottom <= top:
            raise ValueError(f'{printable(file)}: face box {x},{y},{width},{height} lies outside '
                             f'of the {found} picture')
        image = image.crop((left, top, right, bottom))
    return square_pixels(image, 1 if grey else 3, size)


def can_read(path) -> bool:
    "Is a file a whole picture?"
    try:
        open_picture(path)
        return True
    except (ValueError, OSError):
        return False


def is_picture(path: str) -> bool:
    "Is a file a picture, by its ending, or if it has none by its content?"
    ending = os.path.splitext(path)[1].casefold()
    return ending in ENDINGS if ending else can_read(path)
