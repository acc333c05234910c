"""CHECKSUM files: 64 hexadecimal digits, two spaces and the file name, mostly without a newline. Pure."""

from __future__ import annotations

import re

from ckvd.errors import ArchiveError

_LINE = re.compile(rb"\s*([0-9a-fA-F]{64})(?:\s+\*?([^\s][^\r\n]*))?\s*")


def parse_checksum(content: bytes, file_name: str) -> str:
    """Read the SHA-256 in a CHECKSUM file.

    Parameters
    ----------
    content : bytes
        The whole file.
    file_name : str
        The archive that it should name.

    Returns
    -------
    str
        64 lower-case hexadecimal digits.

    Raises
    ------
    ArchiveError
        The file has another form, or names another archive.
    """
    match = _LINE.fullmatch(content)
    if match is None:
        raise ArchiveError(
            file_name, f"its CHECKSUM is not 64 hexadecimal digits and a name, but {content[:100]!r}"
        )
    digest, named = match.groups()
    if named is not None and named.decode("utf-8", "replace").strip().rpartition("/")[2] != file_name:
        raise ArchiveError(file_name, f"its CHECKSUM is that of {named.decode('utf-8', 'replace')[:200]!r}")
    return digest.decode("ascii").lower()
