"""The ensemble: backbones, starting weights, the network, and how it is saved."""
