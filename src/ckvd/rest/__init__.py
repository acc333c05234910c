"""The REST interface of the exchange, for what no archive has yet.

`endpoint` says how a series is asked for, `pages` which request comes next, `rows` reads an answer, `refusal` reads
what is none, `weight` keeps count of what the exchange allows, `host` asks within that, and `answer` puts pages
together. All but `host` is pure.
"""
