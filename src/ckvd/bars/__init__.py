"""What a backtest holds: bars, funding rates and metrics, in memory.

- `klines`: `Klines`, the bars of one series in one span, with their flags, gaps and sources.
- `funding`: `Funding`, the rates that a contract settled, and what positions pay by them.
- `metrics`: `Metrics`, open interest and ratios, with the time from which each row could be known.
- `series_rows`: `SeriesRows`, what these three share: rows gathered from segments.
- `columns`: access to columns by name, and tables for pandas, polars and Arrow.
- `resample`: `ResampledKlines`, longer bars made of shorter bars.
- `decimal_sums`: exact sums of published decimals, for `resample`.
- `panel`: `Panel`, many series on one grid.
"""
