"""How good are the scores and the rankings: pairs, retrieval, a lexical baseline, tables for people."""
