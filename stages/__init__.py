"""The pipeline's stages, in order: preprocess, meta_classes, train, embed, evaluate, report.

Each is started by DVC as `python -m stages.<name> <variant> [<backbone>]` from the repository's root.
"""
