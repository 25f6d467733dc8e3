"""ResNet and ResNeXt backbones (arXiv 1512.03385, 1611.05431): C2..C5 with strides 4, 8, 16, 32.

A stage is a function of its own because, with C4, the last stage is part of the heads and not of the backbone (section
3, "Network Architecture").
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.models.layers import (
    Array,
    Conv,
    FrozenBatchNorm,
    GroupNorm,
    SyncBatchNorm,
    make_extent,
    relu,
    zero_outside,
)


def compute_dtype(model_config: ModelConfig) -> jnp.dtype:
    """Returns the dtype in which the layers compute."""
    return jnp.dtype(model_config.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, then the backbone's normalisation."""

    config: ModelConfig
    features: int
    kernel_size: int
    stride: int
    train: bool
    axis_name: str | None
    dilation: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: Array, extent: Array) -> Array:
        config = self.config
        conv = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.groups,
            use_bias=False,
            dtype=compute_dtype(config),
            name="conv",
        )
        if config.norm == "frozen_bn":
            return conv(x, *FrozenBatchNorm(config.norm_eps, name="norm")(self.features))
        x = conv(x)
        if config.norm == "group_norm":
            return GroupNorm(config.norm_eps, name="norm")(x, extent)
        return SyncBatchNorm(config.norm_eps, self.train, self.axis_name, name="norm")(x, extent)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-10, -18, -34) or a 1x1, 3x3, 1x1 bottleneck, with a projection if shapes change.

    The output of a bottleneck is not zero outside the extent: the 1x1 convolutions that follow read single cells.
    """

    config: ModelConfig
    stage: int
    stride: int
    train: bool
    axis_name: str | None
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Array, extent_in: Array, extent: Array) -> Array:
        config, stride = self.config, self.stride
        width, features = config.stage_width(self.stage), config.stage_channels(self.stage)

        def conv_norm(name: str, features: int, kernel_size: int, stride: int, **choices: int) -> ConvNorm:
            return ConvNorm(config, features, kernel_size, stride, self.train, self.axis_name, name=name, **choices)

        if not config.layout.has_bottlenecks:
            residual = zero_outside(relu(conv_norm("conv1", width, 3, stride)(x, extent)), extent)
            residual = conv_norm("conv2", features, 3, 1)(residual, extent)
        else:
            first, second, extent1 = (stride, 1, extent) if config.stride_in_1x1 else (1, stride, extent_in)
            residual = zero_outside(relu(conv_norm("conv1", width, 1, first)(x, extent1)), extent1)
            conv2 = conv_norm("conv2", width, 3, second, dilation=self.dilation, groups=config.layout.groups)
            residual = relu(conv2(residual, extent))
            residual = conv_norm("conv3", features, 1, 1)(residual, extent)
        if stride != 1 or x.shape[-1] != features:
            x = conv_norm("downsample", features, 1, stride)(x, extent)
        x = relu(x + residual)
        return x if config.layout.has_bottlenecks else zero_outside(x, extent)


def apply_stage(
    model_config: ModelConfig,
    stage: int,
    x: Array,
    extent_in: Array,
    extent: Array,
    *,
    stride: int,
    dilation: int = 1,
    **mode: Any,
) -> Array:
    """Returns the output of the residual blocks of a stage (0 is res2), which become part of the calling module.

    `extent_in` is the extent of x and `extent` that of the output; `mode` is `train` and `axis_name`.
    """
    for block in range(model_config.layout.blocks[stage]):
        name = f"layer{stage + 1}_{block}"
        x = ResidualBlock(model_config, stage, stride if block == 0 else 1, dilation=dilation, name=name, **mode)(
            x, extent_in if block == 0 else extent, extent
        )
    return x


class ResNet(nn.Module):
    """Computes (C2, C3, C4, C5) from normalised images, without C5 if the neck is C4; `freeze_at` stages are frozen."""

    config: ModelConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Array, image_hw: Array, train: bool) -> tuple[Array, ...]:
        """Returns the features; `images` [B, H, W, 3] is in the compute dtype and zero outside `image_hw` [B, 2]."""
        config = self.config
        canvas_h, canvas_w = images.shape[1:3]

        @functools.cache
        def extent_at(stride: int) -> Array:
            return make_extent(image_hw, (canvas_h // stride, canvas_w // stride), stride, config.size_divisor)

        stem = ConvNorm(config, config.backbone_width, 7, 2, train, self.axis_name, name="stem")
        x = zero_outside(relu(stem(images, extent_at(2))), extent_at(2))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        x = zero_outside(x, extent_at(4))  # the window reaches one cell beyond the extent
        x = self._freeze(x, stage=1)
        features, stride = [], 4
        for stage in range(3 if config.neck == "c4" else 4):
            is_dilated = config.neck == "dc5" and stage == 3
            step = 1 if stage == 0 or is_dilated else 2
            x = apply_stage(
                config,
                stage,
                x,
                extent_at(stride),
                extent_at(stride * step),
                stride=step,
                dilation=2 if is_dilated else 1,
                train=train,
                axis_name=self.axis_name,
            )
            stride *= step
            x = self._freeze(x, stage=stage + 2)
            # The FPN reads single cells; anything else that reads the last features reads windows.
            features.append(x if config.neck == "fpn" else zero_outside(x, extent_at(stride)))
        return tuple(features)

    def _freeze(self, x: Array, stage: int) -> Array:
        return jax.lax.stop_gradient(x) if stage <= self.config.freeze_at else x


def frozen_modules(model_config: ModelConfig) -> tuple[str, ...]:
    """Returns the name prefixes of the backbone's modules that `freeze_at` excludes from training."""
    return ("stem", "layer1_", "layer2_", "layer3_", "layer4_")[: model_config.freeze_at]
