"""Doing several things at a time, and stopping them.

- `work`: coroutines together, functions in threads, batches, and the work of a client.
- `processes`: functions in child processes, which do not share the GIL.
- `stopping`: where work in a thread asks whether it was told to stop. Programs that only read load nothing else.
"""
