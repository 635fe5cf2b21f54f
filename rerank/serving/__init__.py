"""The HTTP server of an index, or of a model alone, in the wire formats of rerank clients."""
