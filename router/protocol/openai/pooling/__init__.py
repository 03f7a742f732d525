"""Embeddings, ranks and scores, which pooling models make."""
