"""The runner of `benches/compare`. Each module says what it owns."""
