"""Where archives come from: Binance Vision, or a mirror of it behind HTTP or in a folder.

- `name`: the identity of an archive, and its path under the root of a mirror.
- `checksum`: the content of CHECKSUM files.
- `listing`: S3 listings of a bucket, and the archives that they name.
- `source`: the interface of a source of archives, and what it returns.
- `folder_source`: a mirror in a folder.
- `http_source`: the publisher's site, or a mirror of it behind HTTP.
"""
