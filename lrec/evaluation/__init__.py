"""The results of a run, computed from its embeddings: retrieval metrics and analyses of the ensemble."""
