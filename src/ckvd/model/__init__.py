"""What things are: plain values and pure functions, which every other room builds on.

- `market`: `Market`, `Kind`, `Interval`, and the `SeriesKey` made of them and a symbol.
- `timespan`: reading and writing times, and the half-open `Span`.
- `calendar`: the months and days that archives are cut by, and the grid that bars open on.
- `provenance`: where bars came from (`Source`), and why others are missing (`Absence`, `Gap`, `Reason`).
- `table`: the columns of a bar, its flags, and `KlineTable`: bars on their way from a source to a segment.
- `gaps`: finding the missing bars.
"""
