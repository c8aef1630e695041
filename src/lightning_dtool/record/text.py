"""Texts that a record can hold."""


def as_text(text: str) -> str:
    r"""Return a text with characters that UTF-8 cannot encode, such as undecoded bytes of a file name, escaped.

    >>> as_text("leaves-\udcff.csv")
    'leaves-\\udcff.csv'
    """
    return text.encode("utf-8", "backslashreplace").decode()
