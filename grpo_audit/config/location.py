"""Where a record is: a path, or the URL of a database. A password in a URL is used, and shown or recorded nowhere."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^:/?#]*):.*(?=@)")
"""Up to the last @: a password that should have been percent-encoded may hold one. Rather too much than too little."""
_PARAMETER = re.compile(r"([?&])(?:password|sslpassword)=[^&#]*&?")


def without_password(location: object) -> str:
    """The location without any password: what may be printed and recorded. A path stays as it is.

    Law: ``without_password(without_password(x)) == without_password(x)``.
    """
    text = str(location)
    if "://" not in text:
        return text
    text = _PASSWORD.sub(r"\1", text)
    while _PARAMETER.search(text):
        text = _PARAMETER.sub(r"\1", text)
    return text.rstrip("?&")
