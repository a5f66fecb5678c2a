"""Makes text from files safe to display, by making control characters visible.

Names of classes and files may contain escape sequences that control a terminal, line breaks that fake a log line, or
marks that reverse the reading direction. Such characters are made visible in text for people, and kept in text for
programs.
"""

import re

# Control characters, marks of reading direction, line separators, halves of surrogate pairs.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def is_utf8(text: str) -> bool:
    r"""Return whether a text can be written as UTF-8; names of files may hold other bytes, which Python keeps.

    >>> is_utf8("caf\u00e9"), is_utf8("caf\udce9")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(text: str) -> str:
    r"""Replace hidden characters with their escape codes, for a terminal or a log.

    >>> print(escaped("red\x1b[31m, up\u202e, line\n"))
    red\x1b[31m, up\u202e, line\x0a
    """
    return HIDDEN.sub(_code, text)


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def boxed(text: str) -> str:
    r"""Replace every hidden character with the replacement character U+FFFD, for a page or a figure.

    >>> boxed("a\x1b[31m\u202eb")
    'a\ufffd[31m\ufffdb'
    """
    return HIDDEN.sub("\ufffd", text)
