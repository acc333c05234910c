"""The two modules whose place is fixed: `config` (constants) and `async_cleanup` (the release pattern)."""
