"""A memory-mapped local cache of Binance klines: verified archives in, zero-copy numpy arrays out."""

__version__ = "0.1.0"
