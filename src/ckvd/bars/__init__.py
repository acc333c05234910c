"""The bars that a backtest uses, in memory.

- `klines`: `Klines`, the bars of one series in one span, with their flags, gaps and sources.
- `columns`: access to columns by name, and tables for pandas, polars and Arrow.
- `resample`: `ResampledKlines`, longer bars made of shorter bars.
- `decimal_sums`: exact sums of published decimals, for `resample`.
- `panel`: `Panel`, many series on one grid.
"""
