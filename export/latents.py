"""Latents from seeds as the zoo's models draw them, in NumPy alone: a copy is in every artifact.

The same seed gives the same picture in every runtime: the bits are those of
`tf.random.stateless_uniform(…, alg="philox")`, the normal values at most 1e-6 from `zoo`'s.

Shape letters: N pictures, Z numbers of a latent vector, M blocks of four words.
"""

import pathlib
import statistics
import zlib

import numpy as np

_WORD = 2**32


def latents(seeds, labels=None) -> np.ndarray:
    """seeds [N, 2] integers -> latents [N, Z] float32: row i depends on seeds[i] alone.

    Picture i of `python -m zoo.sample --seed=S` has the seed (S, i). labels [N]: classes, for a
    model whose latents are of a class; None is for any.
    """
    with np.load(pathlib.Path(__file__).with_name("latents.npz")) as stored:
        parameters = dict(stored)
    size, distribution = int(parameters["size"]), str(parameters["distribution"])
    seeds = np.asarray(seeds, np.int64).reshape(-1, 2)
    if distribution == "uniform":
        return 2.0 * uniform(seeds, size, "latents") - 1.0
    draws = normal(seeds, size, "latents")
    if distribution == "normal":
        return draws
    # A mixture of Gaussians: which one, then its mean and the Cholesky factor of its covariance.
    if labels is None or not parameters["labelled"]:
        chosen = uniform(seeds, 1, "component")[:, 0]
        labels = np.searchsorted(parameters["bounds"], chosen, side="right")
    labels = np.asarray(labels)
    return parameters["mean"][labels] + np.einsum("nij,nj->ni", parameters["factor"][labels], draws)


def normal(seeds: np.ndarray, size: int, purpose: str) -> np.ndarray:
    """[N, size] float32 from N(0, 1), by the inverse of its distribution function."""
    inverse = np.vectorize(statistics.NormalDist().inv_cdf, otypes=[np.float32])
    return inverse((random_bits(seeds, size, purpose) // 2**9 + 0.5) * 2.0**-23)


def uniform(seeds: np.ndarray, size: int, purpose: str) -> np.ndarray:
    """[N, size] float32 from U[0, 1)."""
    return (random_bits(seeds, size, purpose) // 2**8 * 2.0**-24).astype(np.float32)


def random_bits(seeds: np.ndarray, size: int, purpose: str) -> np.ndarray:
    """[N, size] int64 in [0, 2**32): draws for different purposes have nothing in common."""
    words = blocks(seeds ^ purpose_key(purpose), np.arange(-(-size // 4)))
    return np.stack(words, axis=-1).reshape(len(seeds), -1)[:, :size]


def purpose_key(purpose: str) -> np.ndarray:
    """[1, 2] int64: by what the seeds of a purpose differ from others'."""
    return np.array([[zlib.crc32(purpose.encode()) << 31, 0]])


def blocks(seeds, counter) -> list:
    """seeds [N, 2], counter [M] int64 -> four words [N, M] int64: what TensorFlow draws in order.

    Only by operators that tensors have too, and never of a negative number: runtimes round its
    quotients in different ways.
    """
    low = seeds & (_WORD - 1)
    high = (seeds - low) // _WORD & (_WORD - 1)
    # TensorFlow scrambles a seed by Philox itself before it counts.
    seed = (low[:, :1], high[:, :1], low[:, 1:], high[:, 1:])
    *key, third, fourth = philox(seed, (0x3EC8F720, 0x02461E29))
    return philox((counter[None], 0, third, fourth), key)


def philox(counter, key) -> list:
    """Philox4x32-10 (Salmon et al. 2011, section 3.3): four words and a key of two -> four words.

    Words are int64 in [0, 2**32); no step overflows.
    """
    first, second, third, fourth = counter
    left, right = key
    for _ in range(10):
        high, low = _product(first, 0xD2511F53)
        other_high, other_low = _product(third, 0xCD9E8D57)
        first, second, third, fourth = (
            other_high ^ second ^ left, other_low, high ^ fourth ^ right, low,
        )  # fmt: skip
        left = (left + 0x9E3779B9) & (_WORD - 1)
        right = (right + 0xBB67AE85) & (_WORD - 1)
    return [first, second, third, fourth]


def _product(word, factor: int) -> tuple:
    """The upper and the lower 32 bits of word · factor."""
    upper_factor, lower_factor = divmod(factor, 2**16)
    lower = word * lower_factor
    upper = word * upper_factor + lower // 2**16
    return upper // 2**16, (upper & 0xFFFF) * 2**16 + (lower & 0xFFFF)
