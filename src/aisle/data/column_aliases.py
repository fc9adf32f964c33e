"""Usual names of the columns of pairs, queries and judgements; the first name in a source is used."""

from __future__ import annotations

__all__ = [
    "GROUPED_TEXT",
    "JUDGED_LABEL",
    "JUDGED_PRODUCT_ID",
    "PAIR_HARD_NEGATIVES",
    "PAIR_LABEL",
    "PAIR_NEGATIVE_SCORES",
    "PAIR_PRODUCT",
    "PAIR_PRODUCT_ID",
    "PAIR_QUERY",
    "PAIR_QUERY_ID",
    "PAIR_TEACHER_SCORE",
    "QUERY_FILE_ID",
    "QUERY_FILE_TEXT",
    "SENTENCE_PAIR_LABEL",
]

PAIR_QUERY = ("query", "question", "search_term", "anchor", "sentence1")
PAIR_PRODUCT = ("product", "product_title", "title", "positive", "pos", "sentence2")
PAIR_LABEL = ("relevance", "relevance_label", "label", "esci_label")
SENTENCE_PAIR_LABEL = "score"
"""Label of pairs sentence1 and sentence2, as the STS benchmark names it."""
PAIR_QUERY_ID = ("query_id",)
PAIR_PRODUCT_ID = ("product_id",)
PAIR_HARD_NEGATIVES = ("hard_negatives", "negatives", "neg")
PAIR_TEACHER_SCORE = ("teacher_score", "pos_scores")
"""Teacher's score of a pair: aisle's own name, then FlagEmbedding's list of a score for each positive."""
PAIR_NEGATIVE_SCORES = ("negative_teacher_scores", "neg_scores")
"""Teacher's scores of the hard negatives."""
GROUPED_TEXT = ("text",)
"""Text of a row that has a group and no product, in addition to the names of queries and products."""

QUERY_FILE_ID = ("query_id", "query-id", "_id", "qid")
"""Ids of queries in query files and in judgements: aisle's own name, then those of BEIR and TREC."""
QUERY_FILE_TEXT = ("query", "text")
JUDGED_PRODUCT_ID = ("product_id", "corpus-id", "corpus_id", "doc_id", "docid")
JUDGED_LABEL = ("relevance", "score", "label", "esci_label")
