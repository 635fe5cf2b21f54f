"""Scores pairs of the texts of two indexes, block by block: files that appear only when whole."""
