"""Benchmarks of ckvd and its peers: `python -m benchmarks`. README.md lists the modules and their questions."""
