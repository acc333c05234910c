"""`ckvd cache`: looking after a cache. The library does the work, in `ckvd.maintenance`; the verbs ask and print.

- `app`: the sub-command, and its verbs in the order of the help.
- `check`: `verify`, `repair`, `quarantine` and `audit`.
- `compare`: what `audit --against` and `repair --prefer` do and print.
- `data`: `export`, `lock` and `check-lock`.
- `look`: `list`, `info`, `stats` and `gaps`.
- `space`: `pack` and `prune`.
- `verb`: what all verbs share: the options that choose series, `--cache`, `--json` and the exit status.
"""
