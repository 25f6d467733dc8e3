# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   language_info:
#     name: python
#     pygments_lexer: python3
# ---

# %% [markdown]
# # A walk through the model
#
# This notebook trains a small Mask R-CNN on two generated images and shows what is computed on the way: anchors,
# proposals, sampled RoIs, mask targets, detections. `python docs/walkthrough.nb.py` runs it in a few minutes on a CPU
# and writes its pictures to `runs/walkthrough/`. `jupytext --to ipynb docs/walkthrough.nb.py` makes a Jupyter notebook
# of it.

# %%
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from mrcnn_jax import known_faults

known_faults.set_flags()  # before JAX starts: flags against known faults of its compiler, as the commands set them

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mrcnn_jax import Predictor, load_preset, prepare
from mrcnn_jax.categories import Category
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.pipeline import training_batches
from mrcnn_jax.data.shapes import shapes_source
from mrcnn_jax.detection.image_anchors import make_anchors
from mrcnn_jax.detection.predict import propose_batch
from mrcnn_jax.detection.roi_targets import sample_rois
from mrcnn_jax.mesh import make_mesh, place_batch
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.ops.boxes import box_sides, compute_iou
from mrcnn_jax.ops.masks import sample_mask_targets
from mrcnn_jax.training.training_program import make_training_program
from mrcnn_jax.visualization.overlays import draw_detections, save_picture


def show(name: str, picture: np.ndarray) -> Image.Image:
    """Writes a picture, and returns it for the notebook to display."""
    save_picture(Path("runs/walkthrough") / f"{name}.png", picture)
    return Image.fromarray(picture)


# %% [markdown]
# ## Data
#
# `prepare` reads a source once, checks every object, and writes a folder from which training reads. Batches have
# one static shape: images are padded to a canvas, objects fill a fixed number of slots, and `valid` is True for the
# slots that hold an object.

# %%
folder = Path(tempfile.mkdtemp()) / "data"
prepare(shapes_source(2, seed=0, stream=0), folder, "train")
dataset = open_dataset(f"{folder}:train")
preset = load_preset("shapes_tiny")
config = replace(
    preset,
    model=replace(preset.model, num_classes=len(dataset.categories)),
    train=replace(preset.train, num_steps=80, warmup_steps=10, batch_size=2, ema_decay=0.0),
    test=replace(preset.test, short_side=128, max_side=128, canvases=((128, 128),)),
)
batches = training_batches(dataset, config.data, batch_size=2, seed=0, start_step=0, num_steps=config.train.num_steps)
batch = next(batches)
truth = jax.tree.map(lambda leaf: leaf[0], batch.ground_truth)
print("images", batch.images.shape, batch.images.dtype, "boxes", truth.boxes.shape, "valid", truth.valid.sum())


def draw(boxes: np.ndarray, scores: np.ndarray, name: str) -> np.ndarray:
    """The first image of the batch with boxes, all of this name."""
    labels = np.zeros(len(boxes), int)
    return draw_detections(batch.images[0], boxes, scores, labels, None, [Category(0, name)])


category_ids = np.array([category.id for category in dataset.categories])
labels = category_ids[truth.labels[truth.valid] - 1]
show(
    "truth",
    draw_detections(batch.images[0], truth.boxes[truth.valid], None, labels, None, dataset.categories),
)

# %% [markdown]
# ## Anchors
#
# Each cell of P2..P6 has one anchor for each aspect ratio (Faster R-CNN, section 3.1.1; FPN, section 4.1). The picture
# shows the five anchors that overlap the first object most.

# %%
model = MaskRCNN(config.model)
levels = jax.jit(lambda image_hw: make_anchors(batch.images.shape[1:3], image_hw, config.model))(batch.image_hw[0])
anchors = np.concatenate([np.asarray(level.boxes) for level in levels])
print("anchors on P2..P6:", [len(level.boxes) for level in levels])
overlaps = np.asarray(compute_iou(jnp.asarray(anchors), jnp.asarray(truth.boxes[:1])))[:, 0]
best = np.argsort(-overlaps)[:5]
show("anchors", draw(anchors[best], overlaps[best], "IoU"))

# %% [markdown]
# ## One training step
#
# `make_training_program` compiles the step for a mesh of devices: forward pass, targets, five losses, gradients,
# update. The state is donated to it, and the metrics are float32 scalars.

# %%
mesh = make_mesh(jax.devices()[:1])
program = make_training_program(config, mesh)
state = program.create_state()
key = jax.random.key(config.train.seed)
state, metrics = program.step(state, place_batch(batch, mesh), key)
for name, value in metrics.items():
    print(f"{name:20} {float(value):.3f}")

# %% [markdown]
# The rest of a very short training: the loss falls, and the model memorises the two images.

# %%
losses = []
for later in batches:
    state, metrics = program.step(state, place_batch(later, mesh), key)
    losses.append(float(metrics["loss/total"]))
print("mean loss of the first and the last ten steps:", np.mean(losses[:10]), np.mean(losses[-10:]))
variables = {"params": state.params, **state.model_state}

# %% [markdown]
# ## Proposals
#
# The RPN scores all anchors and moves them; the best proposals of each level survive non-maximum suppression.


# %%
@jax.jit
def propose(images: jax.Array, image_hw: jax.Array):
    """The features and the proposals of a batch."""
    features = model.apply(variables, images, image_hw, method=model.extract_features)
    canvas = images.shape[1:3]
    return features, propose_batch(variables, features, image_hw, canvas=canvas, model=model, test_config=config.test)


features, proposals = propose(batch.images, batch.image_hw)
print("P2..P6:", [level.shape for level in features])
scores = np.asarray(jax.nn.sigmoid(proposals.scores[0][:8]))
show("proposals", draw(np.asarray(proposals.boxes[0][:8]), scores, "proposal"))

# %% [markdown]
# ## RoIs and mask targets
#
# For training, RoIs are sampled from proposals and ground-truth boxes, foreground first. A mask target is the object's
# bitmap in the frame of its RoI (paper, section 3).

# %%
sample = jax.jit(
    partial(sample_rois, targets_config=config.targets, delta_weights=config.model.box_delta_weights),
)
rois = sample(jax.tree.map(lambda leaf: leaf[0], proposals), truth, key=jax.random.key(1))
foreground = np.flatnonzero(np.asarray(rois.labels) > 0)
print(len(foreground), "foreground RoIs of", int(rois.valid.sum()))
print("their sides:", np.round(np.stack(box_sides(rois.rois[foreground[:3]]), -1)).tolist())
shown = foreground[:4]
masks = jax.jit(partial(sample_mask_targets, output_size=28))(
    truth.masks, truth.boxes, rois.rois[shown], rois.matched_gt[shown]
)
tiles = np.concatenate(np.pad(np.asarray(masks, np.uint8) * 255, ((0, 0), (1, 1), (1, 1)), constant_values=128), axis=1)
show("mask_targets", np.repeat(np.repeat(np.repeat(tiles[..., None], 3, axis=2), 4, axis=0), 4, axis=1))

# %% [markdown]
# ## Detections
#
# `Predictor` wraps the compiled prediction for images of any size: it resizes, batches, pastes the masks, and returns
# boxes in pixels of the image.

# %%
predictor = Predictor(variables, config.model, config.test, dataset.categories)
image = dataset[0].image
(found,) = predictor([image])
sure = found.select(found.scores >= 0.5)
print(f"{len(sure)} detections in an image with {len(dataset[0].objects)} objects")
show("detections", draw_detections(image, sure.boxes, sure.scores, sure.labels, sure.masks, dataset.categories))
