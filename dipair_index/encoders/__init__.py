"""Encoders and scorers of texts, with torch or with ONNX Runtime."""
