"""The pair of model and index that answers: load it, notice a new one, swap them while the server runs."""
