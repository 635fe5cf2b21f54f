"""Datasets, mined negatives and labels."""
