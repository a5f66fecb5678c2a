"""The ensemble: backbones, starting weights, the network, and saved models."""
