"""HTTP, and nothing else: the only room that knows curl_cffi.

- `transport`: requests over one session, retried, bounded in number, and ended when it is closed.
- `request`: one request within its time limits.
- `limits`: what those are.
- `in_flight`: the requests under way, and ending them at close.
- `response`: the head of a response, a response in memory, a downloaded file, and dates in headers.
- `sink`: where a body goes while it arrives, into memory or a file.
- `retry`: whether to try again, and after how long.
- `session`: curl_cffi's sessions and errors, and the table of its inner parts that closing needs.
"""
