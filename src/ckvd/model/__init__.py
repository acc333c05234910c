"""The terms of the field, as plain values and pure functions that all rooms above use.

- `market`: the identity of a series: `SeriesKey`, made of `Market`, `Kind`, symbol and `Interval`.
- `schema`: the columns and archives of each kind: `Schema`.
- `timespan`: parsing and formatting times, and the half-open `Span`.
- `calendar`: the months and days of archives, and when archives are published.
- `grid`: where the bars of a series open, and which of them are closed.
- `provenance`: where bars come from (`Source`), and why bars are missing (`Absence`, `Gap`, `Reason`).
- `table`: the columns of bars, the flags of unusual bars, and `KlineTable`: bars from a source, merged bar by bar.
- `gaps`: finding missing bars.
- `settlements`: when funding is settled, and finding missing settlements.
- `impossible_bars`: bars that no market can make.
- `stray_bars`: bars of another interval among those of a series.
- `life`: `Life`, one incarnation of a symbol, and the keys that name lives.
- `universe`: `Universe`, lives that were chosen.
- `record`: the JSON of values: `Record`, a mixin for dataclasses, and `as_json`.
"""
