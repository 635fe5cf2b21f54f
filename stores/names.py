"""The names of token stores and codecs; a light module, so that `--help` can list them."""

STORE_NAMES = ("lmdb", "tensorstore")
CODEC_NAMES = ("float32", "float16", "int8", "int4")
