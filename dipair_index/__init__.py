"""Retrieve-then-rerank with DiPair: token embeddings, an ANN index and a small exact head."""

__version__ = "0.1.0"
