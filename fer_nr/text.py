"""Names from folders, files and users, as they may stand in a picture, a page or a terminal

They are shown letter by letter and never obeyed as mathematics, HTML or control characters.
"""
import html
import re

__all__ = ['one_line', 'figure_text', 'html_text', 'markdown_text']


def one_line(
    text,  # anything; its `str` counts
    longest: int | None = None,  # characters; what is longer ends in …
) -> str:  # one line without control characters, fit for a terminal
    "Text on one line: white space is a space, and what no font or terminal can print is ?"
    line = ' '.join(str(text).split())
    if longest and len(line) > longest:
        line = line[:longest - 1] + '…'
    return ''.join(letter if letter.isprintable() else '?' for letter in line)


def figure_text(
    text,  # a class name, a file name, the name of a run
    longest: int = 120,  # characters
) -> str:
    "Text for a matplotlib figure, where a `$` begins mathematics unless it is escaped"
    return one_line(text, longest).replace('$', r'\$')


def html_text(
    text,  # anything that a user, a folder or a file has named
    longest: int = 300,  # characters
) -> str:
    "Text for HTML, in an attribute too: tags and quotes are shown, not obeyed"
    return html.escape(one_line(text, longest))


def markdown_text(
    text,  # the name of a row, a title, a remark
) -> str:
    "Text for Markdown: its own signs count, tags in it are shown, not obeyed"
    return re.sub('<(?=[A-Za-z/!?])', '&lt;', one_line(text))
