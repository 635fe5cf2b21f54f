"""ONNX graphs of encoders and heads, written on a model's own weights."""
