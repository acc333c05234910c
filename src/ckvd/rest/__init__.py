"""The REST interface of the exchange, for what no archive has yet: bars, and the rates of funding.

Only `rest_data_client` and `host` do I/O.

- `rest_data_client`: `RestDataClient`, which fetches the pages of a span.
- `endpoint`: the path, parameters and weights of each market and kind.
- `pages`: which request comes next, and whether a page answers its request.
- `rows`: from the body of a response to raw rows.
- `settlements`: the same for the rates of funding.
- `answer`: `RestAnswer`, the closed bars of a span, from its pages.
- `refusal`: the exception that a response without rows becomes.
- `host`: requests to one host, within its limits.
- `weight`: the weight that may still be used in this minute, and the requests in any five.
"""
