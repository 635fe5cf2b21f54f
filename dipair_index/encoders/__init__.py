"""Texts to token embeddings, vectors and scores, by torch or by ONNX Runtime."""
