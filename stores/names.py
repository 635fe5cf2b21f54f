"""The names of token stores and codecs; imports nothing, so that `--help` is fast."""

STORE_NAMES = ("lmdb", "tensorstore")
CODEC_NAMES = ("float32", "float16", "int8", "int4")
