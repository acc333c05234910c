"""Decoding: from zipped CSV, or any text of rows, to checked columns.

This room knows no archive names, URLs or sources: callers say what the rows should be (`decode.Expected`), and rows
of every source are decoded alike. It reads one name only, that of a ZIP's member, to refuse the bars of another
series.

- `unzip`: inflates the one member of a ZIP and checks it against the ZIP's directory.
- `rows`: the grammar of a row; parses CSV text to raw cells.
- `records`: reads the rows of the kinds that are no bars: funding rates and metrics.
- `block`: parses thousands of rows at once, with numpy.
- `digits`: turns decimal digits into integers and correctly rounded floats, eight at a time.
- `decode`: turns raw cells into a checked, ordered `KlineTable`.
- `batch`: decodes many small ZIPs at the cost of a large one.
- `workspace`: the memory that a thread decodes into, and the lock that it parses under.
"""
