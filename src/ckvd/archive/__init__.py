"""Archives of Binance Vision: their names, where they come from, and how ZIP bytes become columns.

`name` and `checksum` read what the publisher writes; `source` says what a source of archives can do; `unzip`,
`parse` and `decode` are the way from bytes to columns, `batch` goes it with many archives at once, and `workspace`
is what a thread takes along. Nothing here knows of segments or the cache.
"""
