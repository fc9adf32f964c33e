"""Pairs, catalogues, queries and judgements: read, checked, and handed on as plain values."""
