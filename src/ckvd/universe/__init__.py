"""The universe: who was listed when, so that a backtest does not choose among survivors only.

What is known:

- `ticker`: what the name of a symbol tells.
- `listing`: the first and the last archive of each symbol.
- `exchange_info`: the exchange's list of all symbols, parsed and checked.
- `facts`: what the publisher announced, as a table.
- `assembly`: the lives of a market, put together from all of these. Pure.

What is kept and asked:

- `snapshot`: the lives at one time as an immutable file, with its hash.
- `choice`: `Universe`, a choice of lives, and its keys and filters.
- `difference`: what two snapshots have different.
- `new_listings`: which lives a cache should hold beside those that it has. Pure.
- `refresh`: asks the sources, and stores a snapshot.
"""
