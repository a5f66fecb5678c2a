"""Text from files on its way to a screen: no character that acts instead of being seen.

A class or file name may hold anything: escape sequences that repaint a terminal, line breaks that fake a line
of a log, marks that turn the reading direction round. What people read shows such characters; what programs
read keeps them.
"""

import re

# Control characters, marks of reading direction, line separators, halves of surrogate pairs.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""Return text in which hidden characters are written out, for a terminal or a log.

    >>> print(escaped("red\x1b[31m, up\u202e, line\n"))
    red\x1b[31m, up\u202e, line\x0a
    """
    return HIDDEN.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def boxed(text: str) -> str:
    r"""Return text with a sign in the place of every hidden character, for a page or a picture.

    >>> boxed("a\x1b[31m\u202eb")
    'a\ufffd[31m\ufffdb'
    """
    return HIDDEN.sub("\ufffd", text)
