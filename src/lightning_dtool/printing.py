"""Text that is safe to print, whoever wrote it."""


def printable(value: object) -> str:
    r"""Return text in which control characters, escape sequences and invisible characters are visible.

    >>> printable("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def printable_lines(value: object) -> str:
    r"""Return text as `printable` does, with its line breaks.

    >>> printable_lines("a\x1b[31mb\n")
    'a\\x1b[31mb\n'
    """
    return "\n".join(map(printable, str(value).split("\n")))
