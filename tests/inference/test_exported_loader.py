"""What the loader of an export computes in NumPy: resizing, decoding of keypoints, and flags of faulty releases."""

import os
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from mrcnn_jax.config import TestConfig
from mrcnn_jax.data.transforms import fit_size, resize_image
from mrcnn_jax.inference import exported_inputs, exported_loader, keypoint_decoding
from mrcnn_jax.inference.exported_outputs import decode_keypoints


def test_images_are_resized_to_the_same_bytes() -> None:
    rng = np.random.default_rng(0)
    for trial in range(150):
        old, new = rng.integers(1, 120, 2), rng.integers(1, 120, 2)
        if trial % 3 == 0:  # smaller by a whole factor, for which OpenCV has code of its own
            new = np.maximum(new // 4, 1)
            old = new * rng.integers(3, 6)
        image = rng.integers(0, 256, (*old, 3)).astype(np.uint8)
        new_hw = (int(new[0]), int(new[1]))
        if (old / new).max() > 2 > 1 > (old / new).min():
            continue  # no image shrinks along one side alone
        for method in ("opencv", "float", "pillow"):
            resized, expected = exported_inputs.resize(image, new_hw, method), resize_image(image, new_hw, method)
            assert resized.dtype == expected.dtype
            np.testing.assert_array_equal(resized, expected, err_msg=f"{method} {old} {new}")


def test_images_fit_the_same_canvas() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        test = replace(
            TestConfig(short_side=64, max_side=96),
            canvases=((64, 96), (96, 64), (32, 32))[: rng.integers(1, 4)],
            size_rounding=("nearest", "floor")[rng.integers(2)],
        )
        image_hw = (int(rng.integers(1, 400)), int(rng.integers(1, 400)))
        expected = fit_size(image_hw, test.short_side, test.max_side, test.canvases, test.size_rounding)
        assert exported_inputs.fit_size(image_hw, vars(test)) == expected


@pytest.mark.parametrize("score", ["softmax", "logit"])
def test_keypoints_are_decoded_as_with_opencv(score: str) -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:56, :56]
    centres = rng.uniform(-3, 60, (20, 4, 2, 1, 1))
    maps = 8 - ((y - centres[:, :, 0]) ** 2 + (x - centres[:, :, 1]) ** 2) / 40
    maps = (maps + 0.1 * rng.standard_normal(maps.shape)).astype(np.float32)
    corners = rng.uniform(0, 50, (20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.2, 300, (20, 2))], axis=1).astype(np.float32)
    expected = keypoint_decoding.decode_keypoints(maps, boxes, score)
    np.testing.assert_allclose(decode_keypoints(maps, boxes, score), expected, rtol=1e-5)
    assert decode_keypoints(maps[:0], boxes[:0], score).shape == (0, 4, 3)


@pytest.mark.parametrize(
    ("jaxlib", "before", "after"),
    [
        ("0.10.2", "", "--wrong=1 --slow=1"),
        ("0.10.2", "--mine --wrong=0", "--mine --wrong=0 --slow=1"),
        ("0.10.2", "file", "file"),
        ("0.13.0", "--mine", "--mine"),
    ],
)
def test_flags_of_faulty_releases_are_set(
    jaxlib: str, before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [
        {"first": "0.10.2", "last": "0.10.2", "effect": "wrong", "flag": "--wrong=1"},
        {"first": "0.10.2", "last": "0.12.0", "effect": "slow", "flag": "--slow=1"},
    ]
    monkeypatch.setenv("XLA_FLAGS", before)
    monkeypatch.setattr(exported_loader.importlib.metadata, "version", lambda name: jaxlib)
    monkeypatch.delitem(sys.modules, "jax")
    exported_loader._set_flags(flags)
    assert os.environ["XLA_FLAGS"] == after
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setenv("XLA_FLAGS", "")
    if jaxlib == "0.10.2":
        with pytest.warns(RuntimeWarning, match="set XLA_FLAGS=--wrong=1"):
            exported_loader._set_flags(flags)
