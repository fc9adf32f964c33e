"""A synthetic shop of any size with judged queries, for trying aisle out."""
