"""Words that others have chosen, as a terminal may show them: names of columns and classes, paths, messages."""

import re

QUERY = re.compile(r"(\w+://[^\s?'\"]*)\?[^\s'\"]*=[^\s'\"]*")


def shown(words: object) -> str:
    r"""Return words in which no character does anything to a terminal, and no URL has its query: it may be signed.

    Characters that cannot be printed are written as in Python. Those that end a line are among them.

    >>> shown("red \x1b[31m in https://store/a.parquet?signature=abc")
    'red \\x1b[31m in https://store/a.parquet?...'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in without_queries(str(words)))


def without_queries(text: str) -> str:
    """Return a text in which a URL ends with ?... where it has a query."""
    return QUERY.sub(r"\1?...", text)
