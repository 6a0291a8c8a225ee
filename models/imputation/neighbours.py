"""Nearest neighbours and averages over them, as the neighbour baselines need them."""

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors

from models.imputation.baseline import Matrix

Indices = npt.NDArray[np.intp]


def nearest(train_NI: Matrix, x_MI: Matrix, k: int) -> tuple[Matrix, Indices]:
    """Give Euclidean distances to the k nearest training rows, ascending, and their indices; both [M, k]."""
    distances_MK, indices_MK = NearestNeighbors(n_neighbors=k).fit(train_NI).kneighbors(x_MI)
    return distances_MK, indices_MK


def weighted_mean(weights_MK: Matrix, indices_MK: Indices, values_NO: Matrix) -> Matrix:
    """Give the mean of the indexed rows under positive weights that need not add up to one, [M, O]."""
    shares_MK = weights_MK / weights_MK.sum(axis=1, keepdims=True)
    return np.asarray(rows_to_sparse(shares_MK, indices_MK, len(values_NO)) @ values_NO)


def rows_to_sparse(values_MK: npt.NDArray[np.generic], indices_MK: Indices, width: int) -> sp.csr_array:
    """Give a sparse [M, width] with K values in each row."""
    rows, k = indices_MK.shape
    return sp.csr_array((values_MK.ravel(), indices_MK.ravel(), np.arange(rows + 1) * k), shape=(rows, width))
