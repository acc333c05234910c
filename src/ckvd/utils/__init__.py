"""The two modules whose place is fixed.

- `config`: every constant that can be tuned.
- `async_cleanup`: the release of resources, with the collection of garbage that it forces.
"""
