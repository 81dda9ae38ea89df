"""Picture files of any kind to uint8 arrays of one size: whole, upright, never stretched."""
import os
import warnings

import numpy as np
from PIL import Image, ImageOps

from .files import printable, regular_file

__all__ = ['ENDINGS', 'FORMATS', 'eight_bits', 'open_picture', 'picture', 'can_read',
           'is_picture']

ENDINGS = ('.jpg .jpeg .jpe .jfif .png .bmp .dib .webp .tif .tiff .gif .pgm .ppm .pbm .pnm '
           '.jp2 .j2k .avif .tga').split()
# what photographs come in: a PostScript file called face.png would be a program
FORMATS = 'JPEG PNG BMP DIB WEBP TIFF GIF PPM JPEG2000 AVIF TGA'.split()


def eight_bits(image: Image.Image, source: Image.Image) -> Image.Image:
    """A picture of any depth with 8 bits a channel; `source`: as opened, with format and tags.

    16 bits are scaled by the depth that the file states; numbers with a point are taken for
    [0, 1], or else for 0 to 255. Raises `ValueError` where it is not known what is white: also for
    16 bits of which no more than 12 are used.
    """
    tags = getattr(source, 'tag_v2', {})
    if image.mode.startswith('I;16') or image.mode == 'I' and source.format in ('PNG', 'PPM'):
        bits = tags.get(258, (16,))[0]
        values = np.asarray(image)
        if bits == 16 and 0 < values.max() < 4096:
            raise ValueError(f'{bits} bits a pixel, but none above {values.max()}, so that it is '
                             'not known what is white')
        values = values * (255 / (2**bits - 1))
        if tags.get(262) == 0:  # a TIFF in which 0 is white
            values = 255 - values
    elif image.mode == 'F':
        values = np.asarray(image).astype(float)
        if not (np.isfinite(values).all() and 0 <= values.min() and values.max() <= 255):
            raise ValueError('numbers with a point that are not all from 0 to 255')
        if values.max() <= 1:
            values = values * 255
    elif image.mode == 'I':
        raise ValueError('whole numbers of 32 bits, so that it is not known what is white')
    elif image.mode == 'LAB':
        raise ValueError('colours as L*a*b*, which cannot be converted')
    else:
        return image
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def open_picture(file) -> Image.Image:
    """A whole picture file, upright as its camera says, with 8 bits a channel.

    Raises `ValueError` for what is none, or too large to be one (a decompression bomb).
    """
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    regular_file(file, 'a picture')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            with Image.open(file, formats=formats) as source:
                source.load()
                return eight_bits(ImageOps.exif_transpose(source), source)
    except Exception as error:
        why = ' '.join(str(error).split()).replace(repr(str(file)), '').strip()
        raise ValueError(f'{printable(file)}: not a readable image '
                         f'({printable(why) or type(error).__name__}); expected a complete '
                         'picture file') from None


def picture(file, box=None, size: int = 48, grey: bool = False, exact: bool = False) -> np.ndarray:
    """One picture file as uint8 (C, size, size); `box`: x, y, width, height of the face in pixels.

    Another shape is cut to a centred square: stretching would change the face. `exact`: it must
    have this size. Raises `ValueError`: the file and what is wrong with it.
    """
    image = open_picture(file).convert('L' if grey else 'RGB')
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
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


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
