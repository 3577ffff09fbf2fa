"""One vector per image: extraction, clusters, comparison and search; the artist-style workflow."""

from sparsenet.embedding.cluster import Clusters, cluster, cluster_by_silhouette
from sparsenet.embedding.compare import rank_by_similarity
from sparsenet.embedding.extract import Embeddings, embed_files, embed_folder
from sparsenet.embedding.index import VectorIndex
from sparsenet.embedding.metrics import evaluate, recall_at
from sparsenet.embedding.model import Embedder, load_embedder

__all__ = [
    "Clusters",
    "Embedder",
    "Embeddings",
    "VectorIndex",
    "cluster",
    "cluster_by_silhouette",
    "embed_files",
    "embed_folder",
    "evaluate",
    "load_embedder",
    "rank_by_similarity",
    "recall_at",
]
