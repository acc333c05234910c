"""The REST interface of the exchange, for what no archive has yet. All but `rest_data_client` and `host` is pure.

- `rest_data_client`: `RestDataClient`, which walks through the pages of a span.
- `endpoint`: the path, parameters and weights of each market and kind.
- `pages`: which request comes next.
- `rows`: the body of a response to raw rows.
- `answer`: the pages of a span, put together.
- `refusal`: what a response without rows means.
- `host`: asking one host within its limits.
- `weight`: how much may still be asked in this minute.
"""
