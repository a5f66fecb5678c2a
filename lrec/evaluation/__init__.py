"""Results computed from a run's embeddings: retrieval metrics and analyses of the ensemble."""
