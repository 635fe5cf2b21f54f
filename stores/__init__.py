"""What is on disk: token embeddings by passage id, passages, the ANN index, the index directory."""
