"""The entry points for fetching.

- `crypto_kline_vision_data`: `CryptoKlineVisionData`, the klines of a span from cache, archives and REST.
- `vision_data_client`: `VisionDataClient`, archives into the cache.
- `synchronous`: `get_klines`, `ensure` and `update` for scripts, threads and notebooks.
"""
