"""Retrieve, rerank, and build the index that both read."""
