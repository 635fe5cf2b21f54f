"""Retrieval, reranking, and the building of indexes."""
