"""How good are the scores and the rankings: pairs, retrieval, runs, tables for people."""
