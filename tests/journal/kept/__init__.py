"""Journals that earlier versions made, which every later one must be able to continue."""
