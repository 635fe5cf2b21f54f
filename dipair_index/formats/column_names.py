"""What the field's files call their columns of ids and of texts."""

from __future__ import annotations

# no passage is called pid, and none says but "passage"
ID_COLUMNS = {
    "id", "pid", "qid", "did", "docid", "docno", "doc_id", "passage_id", "passageid", "query_id",
    "queryid", "document_id", "corpus_id", "text_id", "item_id",
}  # fmt: skip
TEXT_COLUMNS = {
    "text", "passage", "body", "content", "contents", "document", "doc", "query", "queries",
    "question", "title", "sentence", "paragraph", "passage_text", "query_text", "doc_text",
    "document_text", "description", "abstract",
}  # fmt: skip
