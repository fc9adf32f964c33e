"""Names and values that several packages share: columns, ids, languages, text marks, sequences, encoders."""
