"""What a backtest holds: bars in memory, and what is made of them.

- `klines`: `Klines`, the bars of one series in one span, with all that is known about them.
- `columns`: columns found by name, and tables of them for pandas, polars and Arrow.
- `resample`: longer bars of shorter ones.
- `decimal_sums`: sums of published decimals, for `resample`.
- `panel`: many series on one grid.
"""
