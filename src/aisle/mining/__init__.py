"""Find hard negatives for training: products that a search ranks high although they are wrong."""
