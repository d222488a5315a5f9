"""Bytes that nobody would think of, by the thousands."""
