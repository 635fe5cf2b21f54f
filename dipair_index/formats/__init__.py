"""Files of the field, read and written as records: lines, TREC, tables, MS MARCO, BEIR."""
