"""`ckvd universe`: who was listed when. The library does the work, in `ckvd.universe`; the verbs ask and print.

- `app`: the sub-command, and its verbs in the order of the help.
- `verbs`: `refresh`, `list` and `diff`.
"""
