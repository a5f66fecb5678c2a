"""What a run's embeddings say: its metrics, and analyses of the ensemble."""
