"""Feature pyramid network (arXiv 1612.03144), which computes P2..P6 of equal width from C2..C5."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.models.layers import (
    Array,
    Conv,
    FrozenBatchNorm,
    GroupNorm,
    Initializer,
    lecun_uniform,
    make_extent,
    zero_outside,
)
from mrcnn_jax.models.resnet import compute_dtype


class HeadConv(nn.Module):
    """Convolution of the FPN, the box head and the mask head, with either a bias or the heads' normalisation."""

    config: ModelConfig
    features: int
    kernel_size: int
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: Array, extent: Array | None = None) -> Array:
        config = self.config
        conv = Conv(
            self.features,
            self.kernel_size,
            use_bias=config.head_norm == "none",
            kernel_init=self.kernel_init,
            dtype=compute_dtype(config),
            name="conv",
        )
        if config.head_norm == "frozen_bn":
            return conv(x, *FrozenBatchNorm(config.norm_eps, name="norm")(self.features))
        x = conv(x)
        return GroupNorm(config.norm_eps, name="norm")(x, extent) if config.head_norm == "group_norm" else x


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, nearest-neighbour top-down sums, 3x3 output convolutions; P6 is P5 at stride 2."""

    config: ModelConfig

    @nn.compact
    def __call__(self, backbone_features: tuple[Array, ...], image_hw: Array) -> tuple[Array, ...]:
        config, channels = self.config, self.config.fpn_channels
        pyramid: list[Array] = []
        top_down = None
        for index in reversed(range(len(backbone_features))):
            features = backbone_features[index]
            height, width = features.shape[1:3]
            extent = make_extent(image_hw, (height, width), config.feature_strides[index], config.size_divisor)
            lateral = HeadConv(config, channels, 1, lecun_uniform, name=f"lateral{index + 2}")(features, extent)
            merged = zero_outside(lateral, extent)
            if top_down is not None:  # zeroed separately, or a GPU's library adds it and needs it in memory
                merged += zero_outside(upsample_nearest(top_down), extent)
            top_down = merged
            output = HeadConv(config, channels, 3, lecun_uniform, name=f"output{index + 2}")(top_down, extent)
            pyramid.insert(0, zero_outside(output, extent))
        return (*pyramid, pyramid[-1][:, ::2, ::2])


def upsample_nearest(x: Array) -> Array:
    """Returns x with every cell repeated 2 x 2.

    TPUs multiply with matrices of zeros and ones instead, which gives the same finite numbers: repeating along the
    second-to-last axis would rearrange tiles and cost twelve times as much, by the compiler's estimate.
    """

    def by_broadcast(x: Array) -> Array:
        batch, height, width, channels = x.shape
        repeated = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
        return repeated.reshape(batch, 2 * height, 2 * width, channels)

    def by_product(x: Array) -> Array:
        rows, columns = (jnp.asarray(np.repeat(np.eye(length), 2, axis=0), x.dtype) for length in x.shape[1:3])
        return jnp.einsum("bhwc,vw,uh->buvc", x, columns, rows, precision="highest")

    return jax.lax.platform_dependent(x, tpu=by_product, default=by_broadcast)
