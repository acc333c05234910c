"""From what a user wants to segments in the cache.

- `planning`: which archives to fetch. Pure.
- `due`: what an update has to ask for.
- `limits`: how much of an ingest may be under way at a time.
- `backlog`: the bound on archives that are fetched and not stored yet.
- `download`: plan, fetch, store, learn, until nothing is left to fetch.
- `ingest`: from fetched archives to bars and segments; the one reader of a fetched archive.
- `completion`: what archives lack, from other sources, and why the rest is missing.
- `derive`: bars made of shorter ones that the cache has.
- `report`: what a download did.
"""
