"""How fast it is, next to the other ways: `python -m benchmarks`. Each module asks one question."""
