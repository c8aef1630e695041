"""Texts that a record can hold."""


def as_text(text: str) -> str:
    r"""Return a text that UTF-8 can write: what it cannot (bytes of a file name, say) is escaped.

    >>> as_text("leaves-\udcff.csv")
    'leaves-\\udcff.csv'
    """
    return text.encode("utf-8", "backslashreplace").decode()
