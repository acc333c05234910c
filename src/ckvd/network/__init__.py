"""The network: the only room that knows curl_cffi.

`requests` follows what is under way and ends it at close; `session` opens connections and translates what goes
wrong with them; `sink` takes in a body; `exchange` is one request within its limits, and `answer` what it brings;
`retry` decides whether there is another; `transport` puts these together; `http_source` is a source of archives
made of it; `unclosed` is for all that was not closed.
"""
