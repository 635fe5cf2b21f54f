"""The names of token stores and codecs; imports nothing, so that `--help` is fast."""

DEFAULT_CODEC = "int6"
"""The codec of a new index: as good as int8 in a quarter less (benchmarks/RESULTS.md)."""

STORE_NAMES = ("lmdb", "tensorstore")
CODEC_NAMES = ("float32", "float16", "int8", "int6", "int4")

CUT, SPLIT = LONG = ("cut", "split")
"""What becomes of passages that are longer than the model reads."""
