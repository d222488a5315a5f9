"""The tests: each states one promise."""
