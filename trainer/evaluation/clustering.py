"""Clustering: whether the clusters of the embeddings agree with the labels.

K-means with as many clusters as there are labels, on the raw embeddings; normalised mutual
information and adjusted Rand index against the labels (arXiv 2508.11845, section 5).

Shape legend: N clips, D channels, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dawnchorus.trainer.evaluation.config import ClusteringConfig

PAPER_SEED = 42
_THREADED_SIZE = 1e8


def spread(values: list[float]) -> dict[str, float]:
    """Mean, sample standard deviation (0 for one value) of repeated measurements."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
    }


def evaluate_clustering(
    emb_ND: npt.NDArray[Any], label_NC: npt.NDArray[np.bool_], config: ClusteringConfig
) -> dict[str, Any]:
    """Compare K-means clusters with the labels, over several seeds.

    Only clips with exactly one label take part: a cluster index cannot agree with a set. (AVEX's
    code takes the first label of a multi-label clip instead.)

    Args:
        emb_ND: embeddings.
        label_NC: bool, multi-hot.
        config: options.

    Returns:
        `nmi` and `ari`, each with mean and std over the seeds, per seed; `n` clips used,
        `left_out` clips without exactly one label, `clusters`. Values are None where fewer than
        two labels are left.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    seeds = range(PAPER_SEED, PAPER_SEED + config.seeds)
    used_N = label_NC.sum(1) == 1
    truth = label_NC[used_N].argmax(1)
    clusters = len(np.unique(truth))
    result: dict[str, Any] = {
        "nmi": None,
        "ari": None,
        "n": int(used_N.sum()),
        "left_out": int((~used_N).sum()),
        "clusters": clusters,
        "seeds": list(seeds),
    }
    if clusters < 2:
        return result
    emb_ND = np.asarray(emb_ND, dtype=np.float32)[used_N]
    nmi, ari = [], []
    for seed in seeds:
        kmeans = KMeans(
            n_clusters=clusters, n_init=config.n_init, max_iter=config.max_iter, random_state=seed
        )
        # On small data, threads that wait for a core cost more time than they save.
        with threadpool_limits(1 if emb_ND.size * clusters < _THREADED_SIZE else None):
            found = kmeans.fit_predict(emb_ND)
        nmi.append(float(normalized_mutual_info_score(truth, found)))
        ari.append(float(adjusted_rand_score(truth, found)))
    result["nmi"] = {**spread(nmi), "per_seed": nmi}
    result["ari"] = {**spread(ari), "per_seed": ari}
    return result
