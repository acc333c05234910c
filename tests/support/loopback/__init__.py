"""Servers on this machine's loopback that behave, and misbehave, as they are told.

`server` is HTTP/1.1 over a handler; `mirror` serves a folder as the archives and their listing are served;
`exchange` answers for klines as the exchange does, from `rows`, by its own `clock`.
"""
