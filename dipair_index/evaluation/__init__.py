"""Ranking and pair measures, and the paired bootstrap of their differences."""
