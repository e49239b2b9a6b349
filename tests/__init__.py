"""The tests of dasfs."""
