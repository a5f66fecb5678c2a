"""LREC: light-weighted randomized ensembles with clustering, for image retrieval."""
