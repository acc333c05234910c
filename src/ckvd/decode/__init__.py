"""From the text of rows to columns, for archives and REST answers alike.

This room knows nothing of archive names, URLs or sources: callers say what rows should be (`decode.Expected`).

- `unzip`: the one member of a ZIP, inflated and checked against its directory.
- `rows`: the grammar of a row; CSV text to raw cells.
- `block`: thousands of rows at once, with numpy.
- `digits`: decimal text to integers and correctly rounded floats.
- `decode`: raw cells to a checked, ordered `KlineTable`.
- `batch`: many small archives at the cost of a large one.
- `workspace`: the memory and the turn at parsing that a thread decodes with.
"""
