"""The terms of the field, as plain values and pure functions that all rooms above use.

- `market`: the identity of a series: `SeriesKey`, made of `Market`, `Kind`, symbol and `Interval`.
- `timespan`: parsing and formatting times, and the half-open `Span`.
- `calendar`: the months and days that archives are cut by, the grid that bars open on, and when both are final.
- `provenance`: where bars come from (`Source`), and why bars are missing (`Absence`, `Gap`, `Reason`).
- `table`: the columns of bars, the flags of unusual bars, and `KlineTable`: bars from a source, merged bar by bar.
- `gaps`: finding missing bars.
"""
