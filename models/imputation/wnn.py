"""Imputation by weighted nearest neighbours: both platforms smooth the training samples, each where it tells more.

After Hao et al., "Integrated analysis of multimodal single-cell data", Cell 184 (2021). Graphs are sparse [N, N]:
memory grows with neighbours, not with the square of the samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from core.errors import UserError
from core.randomness import seed_for
from models.imputation.baseline import Baseline, Matrix, Platform, Regressor, directions
from models.imputation.neighbours import Indices, nearest, rows_to_sparse, weighted_mean

LEAST_BANDWIDTH = 1e-8
RATIO_OFFSET = 1e-4
PAIRS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class GaussianNeighbours:
    """Predicts, in the space of principal components, a mean under weights exp(-d^2 / distance to the k-th^2)."""

    pca: PCA
    k: int
    train_NP: Matrix
    train_NO: Matrix

    def predict(self, x_MI: Matrix) -> Matrix:
        """Give [M, O] for [M, I]."""
        return gaussian_mean(self.train_NP, self.train_NO, self.pca.transform(x_MI), self.k)


class Wnn(Baseline):
    """Weighted nearest neighbours.

    After `fit`, `weight` and `bandwidth` hold, by platform, one value per training sample.
    """

    name: ClassVar[str] = "wnn"

    def __init__(
        self,
        n_neighbors: int = 20,
        n_neighbors_union: int = 200,
        n_pca_components: int = 50,
        k_weight: int = 50,
        seed: int = 42,
    ) -> None:
        """Take the settings; where there are fewer training samples or features, their number counts instead.

        Args:
            n_neighbors: Neighbours in a platform's graph, the sample itself among them, and in the joint graph.
            n_neighbors_union: Neighbours per platform among which those of the joint graph are sought.
            n_pca_components: Principal components of each platform.
            k_weight: Neighbours whose mean is the imputed value.
            seed: For the randomised solver of the principal components.

        Raises:
            UserError: A number is too small.
        """
        numbers = {"n_neighbors": n_neighbors, "n_neighbors_union": n_neighbors_union}
        for name, number in numbers.items():
            if number < 2:
                raise UserError(f"wnn.{name} = {number}: must be at least 2, since it counts the sample itself")
        for name, number in {"n_pca_components": n_pca_components, "k_weight": k_weight}.items():
            if number < 1:
                raise UserError(f"wnn.{name} = {number}: must be positive")
        self.n_neighbors = n_neighbors
        self.n_neighbors_union = n_neighbors_union
        self.n_pca_components = n_pca_components
        self.k_weight = k_weight
        self.seed = seed

    def _fit(self, train: Mapping[Platform, Matrix]) -> Mapping[Platform, Regressor]:
        joint_NN = self._joint_graph({name: self._pca(x).fit_transform(x) for name, x in train.items()})
        regressors = {}
        for source, (x_NI, y_NO) in directions(train).items():
            pca = self._pca(x_NI).fit(joint_NN @ x_NI)
            regressors[source] = GaussianNeighbours(pca, min(self.k_weight, len(x_NI)), pca.transform(x_NI), y_NO)
        return regressors

    def _pca(self, x_NI: Matrix) -> PCA:
        return PCA(
            min(self.n_pca_components, *x_NI.shape), random_state=seed_for(self.seed, "principal components") % 2**32
        )

    def _joint_graph(self, scores: Mapping[Platform, Matrix]) -> sp.csr_array:
        """Give the smoothing matrix [N, N]; each row adds up to one."""
        count = len(scores["a"])
        k, k_union = min(self.n_neighbors, count), min(self.n_neighbors_union, count)
        graphs = {name: neighbour_graph(x, k) for name, x in scores.items()}
        self.bandwidth = {name: bandwidths(x, graphs[name], k) for name, x in scores.items()}
        weight_a = expit(
            affinity_ratio(scores["a"], graphs["a"], graphs["b"], self.bandwidth["a"])
            - affinity_ratio(scores["b"], graphs["b"], graphs["a"], self.bandwidth["b"])
        )
        self.weight: dict[Platform, Matrix] = {"a": weight_a, "b": 1 - weight_a}
        union = sp.csr_array(neighbour_graph(scores["a"], k_union) + neighbour_graph(scores["b"], k_union))
        rows, columns = union.nonzero()
        score = np.zeros(len(rows))
        for name, x in scores.items():
            scaled = pair_distances(x, rows, columns) / np.maximum(self.bandwidth[name], LEAST_BANDWIDTH)[rows]
            score += self.weight[name][rows] * np.exp(-scaled)
        return strongest(sp.csr_array((score, (rows, columns)), shape=union.shape), k)


def neighbour_graph(x_NP: Matrix, k: int) -> sp.csr_array:
    """Give the 0/1 graph of the k nearest rows by cosine, without the edge of a row to itself."""
    unit_NP = normalize(x_NP)
    _, indices_NK = nearest(unit_NP, unit_NP, k)
    graph = rows_to_sparse(np.ones(indices_NK.shape), indices_NK, len(x_NP)).tocoo()
    other = graph.row != graph.col
    return sp.csr_array((graph.data[other], (graph.row[other], graph.col[other])), shape=graph.shape)


def bandwidths(x_NP: Matrix, graph_NN: sp.csr_array, k: int) -> Matrix:
    """Give the kernel width of each sample: the mean distance to those with which it shares the fewest neighbours."""
    looped = graph_NN + sp.eye_array(len(x_NP), format="csr")
    shared = sp.csr_array(looped @ looped.T).tocoo()
    jaccard, distances = shared.data / (2 * k - shared.data), pair_distances(x_NP, shared.row, shared.col)
    ends = np.searchsorted(shared.row, np.arange(1, len(x_NP)))
    pairs = zip(np.split(jaccard, ends), np.split(distances, ends), strict=True)
    return np.array([_mean_of_least_similar(similar, far, k) for similar, far in pairs])


def _mean_of_least_similar(jaccard: Matrix, distances: Matrix, k: int) -> float:
    """Average the k largest distances among the k smallest similarities and those that tie with the last of them."""
    last = np.sort(jaccard)[min(k, len(jaccard)) - 1]
    return float(np.sort(distances[jaccard <= last])[-k:].mean())


def affinity_ratio(x_NP: Matrix, own_NN: sp.csr_array, other_NN: sp.csr_array, bandwidth_N: Matrix) -> Matrix:
    """Give how much better the own platform's neighbours predict a sample than the other's do, [N]."""
    within_N, cross_N = (_affinity(x_NP, graph, bandwidth_N) for graph in (own_NN, other_NN))
    return np.asarray(within_N / (cross_N + RATIO_OFFSET))


def _affinity(x_NP: Matrix, graph_NN: sp.csr_array, bandwidth_N: Matrix) -> Matrix:
    """Compare samples with the mean of their mutual neighbours, which is zero where there are none."""
    mutual = graph_NN.multiply(graph_NN.T)
    predicted_NP = (mutual @ x_NP) / np.maximum(mutual.sum(axis=1), 1)[:, None]
    distances_N = np.linalg.norm(x_NP - predicted_NP, axis=1)
    return np.asarray(np.exp(-distances_N / np.maximum(bandwidth_N, LEAST_BANDWIDTH)))


def strongest(scores_NN: sp.csr_array, k: int) -> sp.csr_array:
    """Keep the k highest scores of each row and let them add up to one; a row of zeros becomes the sample itself."""
    columns, values = [], []
    for row, (start, end) in enumerate(zip(scores_NN.indptr, scores_NN.indptr[1:], strict=False)):
        best = start + np.argsort(-scores_NN.data[start:end], kind="stable")[:k]
        total = scores_NN.data[best].sum()
        columns.append(scores_NN.indices[best] if total > 0 else np.array([row]))
        values.append(scores_NN.data[best] / total if total > 0 else np.ones(1))
    bounds = np.cumsum([0, *map(len, columns)])
    return sp.csr_array((np.concatenate(values), np.concatenate(columns), bounds), shape=scores_NN.shape)


def gaussian_mean(train_NP: Matrix, train_NO: Matrix, x_MP: Matrix, k: int) -> Matrix:
    """Average the targets of the k nearest training rows under exp(-d^2 / sigma^2), sigma the k-th distance, [M, O]."""
    distances_MK, indices_MK = nearest(train_NP, x_MP, k)
    sigma_M1 = np.where(distances_MK[:, -1:] > 0, distances_MK[:, -1:], 1)
    return weighted_mean(np.exp(-((distances_MK / sigma_M1) ** 2)), indices_MK, train_NO)


def pair_distances(x_NP: Matrix, rows: Indices, columns: Indices) -> Matrix:
    """Give the Euclidean distance of each pair of rows, some pairs at a time to bound memory."""
    parts = [slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(rows), PAIRS_AT_ONCE)]
    return np.concatenate([np.linalg.norm(x_NP[rows[part]] - x_NP[columns[part]], axis=1) for part in parts])
