"""HTTP servers on loopback that behave, and misbehave, as tests tell them.

- `clock`: a time for servers and clients that moves only when it is told to, or when somebody sleeps.
- `exchange`: answers requests for klines as the exchange does, with weights, refusals and bans.
- `mirror`: serves a folder as the archives and their listing are served.
- `reply`: requests and replies, with what a reply does wrong.
- `rows`: rows of klines as the exchange sends them.
- `server`: the HTTP/1.1 server below the others.
"""
