"""ResNet bodies (arXiv 1512.03385), stride in the 3x3 convolution, returning C2..C5 (strides 4, 8, 16, 32)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrcnn_jax.config import Backbone, ModelConfig
from mrcnn_jax.models.layers import Array, Conv, FrozenBatchNorm, GroupNorm, SyncBatchNorm, make_extent, zero_outside

STAGE_BLOCKS: dict[Backbone, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
BASIC_BLOCK_BODIES = ("resnet18", "resnet34")


def compute_dtype(config: ModelConfig) -> jnp.dtype:
    """Returns the dtype of the convolutions."""
    return jnp.dtype(config.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, then the body's normalisation."""

    config: ModelConfig
    features: int
    kernel_size: int
    stride: int
    train: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, extent: Array) -> Array:
        config = self.config
        conv = Conv(
            self.features, self.kernel_size, self.stride, use_bias=False, dtype=compute_dtype(config), name="conv"
        )
        x = conv(x)
        if config.norm == "frozen_bn":
            return FrozenBatchNorm(config.norm_eps, name="norm")(x)
        if config.norm == "group_norm":
            return GroupNorm(config.norm_eps, name="norm")(x, extent)
        return SyncBatchNorm(config.norm_eps, self.train, self.axis_name, name="norm")(x, extent)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18, -34) or the 1x1, 3x3, 1x1 bottleneck, with a projection where shapes change."""

    config: ModelConfig
    width: int
    stride: int
    train: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, extent_in: Array, extent: Array) -> Array:
        def conv_norm(name: str, features: int, kernel_size: int, stride: int) -> ConvNorm:
            return ConvNorm(self.config, features, kernel_size, stride, self.train, self.axis_name, name=name)

        width, stride = self.width, self.stride
        if self.config.backbone in BASIC_BLOCK_BODIES:
            features = width
            residual = zero_outside(nn.relu(conv_norm("conv1", width, 3, stride)(x, extent)), extent)
            residual = conv_norm("conv2", features, 3, 1)(residual, extent)
        else:
            features = 4 * width
            residual = zero_outside(nn.relu(conv_norm("conv1", width, 1, 1)(x, extent_in)), extent_in)
            residual = nn.relu(conv_norm("conv2", width, 3, stride)(residual, extent))
            residual = conv_norm("conv3", features, 1, 1)(residual, extent)
        if stride != 1 or x.shape[-1] != features:
            x = conv_norm("downsample", features, 1, stride)(x, extent)
        return zero_outside(nn.relu(x + residual), extent)


class ResNet(nn.Module):
    """Normalised images to (C2, C3, C4, C5); `freeze_at` stages pass no gradient on."""

    config: ModelConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Array, image_hw: Array, train: bool) -> tuple[Array, ...]:
        """`images` [B, H, W, 3] in the compute dtype, zeros outside `image_hw` [B, 2]."""
        config = self.config
        canvas_h, canvas_w = images.shape[1:3]

        def extent_at(stride: int) -> Array:
            return make_extent(image_hw, (canvas_h // stride, canvas_w // stride), stride)

        stem = ConvNorm(config, config.body_width, 7, 2, train, self.axis_name, name="stem")
        x = zero_outside(nn.relu(stem(images, extent_at(2))), extent_at(2))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        x = zero_outside(x, extent_at(4))  # the window reaches one cell outside
        x = self._freeze(x, stage=1)
        maps = []
        for stage, num_blocks in enumerate(STAGE_BLOCKS[config.backbone]):
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                extent = extent_at(4 * 2**stage)
                extent_in = extent_at(2 * 2**stage) if stride == 2 else extent
                residual_block = ResidualBlock(
                    config,
                    config.body_width * 2**stage,
                    stride,
                    train,
                    self.axis_name,
                    name=f"layer{stage + 1}_{block}",
                )
                x = residual_block(x, extent_in, extent)
            x = self._freeze(x, stage=stage + 2)
            maps.append(x)
        return tuple(maps)

    def _freeze(self, x: Array, stage: int) -> Array:
        return jax.lax.stop_gradient(x) if stage <= self.config.freeze_at else x


def frozen_modules(config: ModelConfig) -> tuple[str, ...]:
    """Returns the prefixes of the body's modules that `freeze_at` leaves untrained."""
    return ("stem", "layer1_", "layer2_", "layer3_", "layer4_")[: config.freeze_at]
