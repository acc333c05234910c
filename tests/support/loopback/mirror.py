"""`Mirror`: serves a folder as the publisher's archives are served, with the listing of the bucket.

Files are at the address of the server, the listing at its `/bucket`: ListObjects version 1, in pages as small as
one likes. Single paths can be told to misbehave: each gets a script of replies, or changes of the genuine reply,
which are used up one request at a time, and is genuine afterwards.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Self, TypeAlias
from urllib.parse import quote
from xml.sax.saxutils import escape

from support.loopback.reply import Reply, Request
from support.loopback.server import LoopbackServer

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

LISTING_PATH = "/bucket"

Step: TypeAlias = Reply | Callable[[Reply], Reply]


class Mirror:
    """A folder behind a `LoopbackServer`. A context manager.

    Parameters
    ----------
    root : Path
        The folder that holds `data/`.
    page_size : int
        Entries on a page of the listing.
    is_next_marker_given : bool
        Whether pages that are cut off name the next marker.
    is_key_encoded : bool
        Whether the listing percent-encodes its keys, and says so.

    Attributes
    ----------
    server : LoopbackServer
    """

    def __init__(
        self,
        root: Path,
        *,
        page_size: int = 1000,
        is_next_marker_given: bool = True,
        is_key_encoded: bool = False,
    ) -> None:
        self.server = LoopbackServer(self._reply)
        self._root = root
        self._page_size = page_size
        self._is_next_marker_given = is_next_marker_given
        self._is_key_encoded = is_key_encoded
        self._scripts: defaultdict[str, deque[Step]] = defaultdict(deque)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.server.__exit__(kind, error, traceback)

    @property
    def base_url(self) -> str:
        return self.server.url

    @property
    def listing_url(self) -> str:
        return self.server.url + LISTING_PATH

    def script(self, path: str, *steps: Step) -> None:
        """Say what the next requests for a path (not percent-encoded) are answered."""
        with self._lock:
            self._scripts["/" + path.lstrip("/")].extend(steps)

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return self.server.count("/" + path.lstrip("/"))

    def _reply(self, request: Request) -> Reply:
        genuine = self._listing(request.query) if request.path == LISTING_PATH else self._file(request.path)
        with self._lock:
            script = self._scripts[request.path]
            step = script.popleft() if script else genuine
        return step if isinstance(step, Reply) else step(genuine)

    def _file(self, path: str) -> Reply:
        file = self._root / path.lstrip("/")
        if not file.is_file() or ".." in file.parts:
            code = "<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"
            return Reply(404, code.encode(), {"Content-Type": "application/xml"})
        body = file.read_bytes()
        modified = formatdate(file.stat().st_mtime, usegmt=True)
        return Reply(200, body, {"ETag": _etag(body), "Last-Modified": modified})

    def _listing(self, query: Mapping[str, str]) -> Reply:
        prefix, marker, delimiter = query.get("prefix", ""), query.get("marker", ""), query.get("delimiter", "")
        entries = [entry for entry in sorted(self._entries(prefix, delimiter)) if entry > marker]
        page = entries[: min(self._page_size, int(query.get("max-keys", self._page_size)))]
        is_cut = len(page) < len(entries)
        lines = [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>',
            f"<Prefix>{self._text(prefix)}</Prefix><Marker>{self._text(marker)}</Marker>",
            f"<MaxKeys>{self._page_size}</MaxKeys><Delimiter>{delimiter}</Delimiter>",
            f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>",
        ]
        if self._is_key_encoded:
            lines.append("<EncodingType>url</EncodingType>")
        if is_cut and self._is_next_marker_given:
            lines.append(f"<NextMarker>{self._text(page[-1])}</NextMarker>")
        lines += [self._contents(entry) for entry in page if not entry.endswith("/")]
        lines += [
            f"<CommonPrefixes><Prefix>{self._text(entry)}</Prefix></CommonPrefixes>"
            for entry in page
            if entry.endswith("/")
        ]
        return Reply(200, "".join([*lines, "</ListBucketResult>"]).encode(), {"Content-Type": "application/xml"})

    def _entries(self, prefix: str, delimiter: str) -> set[str]:
        """Keys, and with a delimiter the folders that hold keys in their place, with a slash at the end."""
        keys = {key for key in self._keys(self._root / prefix.rpartition("/")[0]) if key.startswith(prefix)}
        if not delimiter:
            return keys
        rests = ((key, key[len(prefix) :].find(delimiter)) for key in keys)
        return {key if end < 0 else key[: len(prefix) + end + 1] for key, end in rests}

    def _keys(self, folder: Path) -> Iterable[str]:
        return (file.relative_to(self._root).as_posix() for file in folder.rglob("*") if file.is_file())

    def _contents(self, key: str) -> str:
        file = self._root / key
        status = file.stat()
        modified = datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return (
            f"<Contents><Key>{self._text(key)}</Key><LastModified>{modified}</LastModified>"
            f"<ETag>{escape(_etag(file.read_bytes()), {chr(34): '&quot;'})}</ETag><Size>{status.st_size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )

    def _text(self, key: str) -> str:
        return escape(quote(key) if self._is_key_encoded else key)


def publish(root: Path, path: str, content: bytes, *, digest: str | None = None) -> str:
    """Put an archive and its CHECKSUM into a folder, as the publisher does.

    Parameters
    ----------
    root : Path
        The folder that holds `data/`.
    path : str
        Of the archive, under the root.
    content : bytes
    digest : str, optional
        What the CHECKSUM says, if it is not the truth. Empty for no CHECKSUM at all.

    Returns
    -------
    str
        The SHA-256 of the content.
    """
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    stated = sha256 if digest is None else digest
    if stated:
        file.with_name(file.name + ".CHECKSUM").write_text(f"{stated}  {file.name}", encoding="utf-8")
    return sha256


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
