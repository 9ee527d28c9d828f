"""How near reconstructions are to their pictures, and how many latents an encoder uses.

Shape letters: N images, H W C height, width, channels, Z latent dimensions.
"""

import numpy as np
import tensorflow as tf

from zoo.metrics.extractors import Extractor

# An equal picture has an infinite PSNR, which no mean survives.
MAX_PSNR = 100.0
SSIM_WINDOW = 11
ACTIVE_VARIANCE = 0.01
_CHUNK_PIXELS = 2**22


def measure(images: np.ndarray, reconstructions: np.ndarray) -> dict[str, float]:
    """Means over pairs, uint8 [N, H, W, C] both: psnr in dB, ssim, perceptual_glyphs or _paintings.

    The last is `Extractor.perceptual_distances`. SSIM needs sides of 11 pixels and is else left
    out.
    """
    extractor = Extractor.for_images(images.shape[1:])
    measures = {"psnr": psnr(images, reconstructions)}
    if min(images.shape[1:3]) >= SSIM_WINDOW:
        measures["ssim"] = ssim(images, reconstructions)
    name = f"perceptual_{extractor.name}"
    measures[name] = extractor.perceptual_distances(images, reconstructions)
    return {name: float(np.mean(values)) for name, values in measures.items()}


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of pairs, uint8 [N, H, W, C] -> [N] in dB, at most MAX_PSNR."""
    return np.minimum(_by_chunks(tf.image.psnr, images, others), MAX_PSNR)


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Structural similarity of pairs, uint8 [N, H, W, C] -> [N], 1 for equal ones.

    Wang et al. 2004, section III: Gaussian window of 11 pixels and deviation 1.5, K = .01 and .03,
    windows that lie inside; colours apart, then their mean.
    """
    return _by_chunks(tf.image.ssim, images, others)


def _by_chunks(function, images: np.ndarray, others: np.ndarray) -> np.ndarray:
    size = max(1, _CHUNK_PIXELS // int(np.prod(images.shape[1:])))
    found = [
        function(images[start : start + size], others[start : start + size], max_val=255).numpy()
        for start in range(0, len(images), size)
    ]
    return np.concatenate(found).astype(np.float64)


def active_units(means: np.ndarray) -> int:
    """Latents whose posterior mean, [N, Z], has a variance above 0.01 over the data.

    Burda, Grosse & Salakhutdinov 2016, section 5.2.
    """
    return int(np.sum(np.var(means, axis=0, ddof=1) > ACTIVE_VARIANCE))
