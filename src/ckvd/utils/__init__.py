"""The two modules whose place is fixed, and what the second is made of.

- `config`: every constant that can be tuned.
- `async_cleanup`: the release of resources.
- `forced_collection`: garbage collection if released objects are still alive.
- `cleanup_log`: what the release of resources logs.
- `stopping`: where work in a thread asks whether it was told to stop.
"""
