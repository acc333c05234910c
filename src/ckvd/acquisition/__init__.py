"""Acquisition: from what a user wants to segments in the cache.

`download` plans, fetches and learns; `group_commit` and `ingest` turn fetched archives into segments; `completion`
asks other sources for what archives lack, as `shortfalls` decides; `report` says what came of it.
"""
