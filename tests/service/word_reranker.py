"""A reranker without a model: it counts the words that query and text share, of words in both 24 at most."""

from aisle.search.rerankers import Reranker, TokenLimit

MAX_LENGTH = 24


class WordReranker:
    """Scores pairs, and keeps how many pairs each call had."""

    def __init__(self):
        self.calls = []

    def score(self, pairs):
        self.calls.append(len(pairs))
        return [self.logit(*pair) for pair in pairs]

    @staticmethod
    def logit(query, text):
        """Return 2 for each shared word, less 1, so that the probability without any is .27."""
        if text == "defect":
            raise ZeroDivisionError("secret")
        if text == "no number":
            return float("nan")
        return 2.0 * len(set(query.split()) & set(text.split())) - 1

    @staticmethod
    def count(pairs):
        return [len(query.split()) + len(text.split()) for query, text in pairs]

    @property
    def reranker(self):
        return Reranker("words", self.score, TokenLimit(MAX_LENGTH, self.count))
