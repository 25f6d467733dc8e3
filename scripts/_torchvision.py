"""Times torchvision's Mask R-CNN R50-FPN on this machine for accelerator_report.py; prints JSON.

PYTHON_WITH_TORCH scripts/_torchvision.py --canvas 800x1344 [--small]

It times prediction of one and of eight images and a training step of eight: eager in float32, and eager and under
torch.compile with automatic mixed precision in bfloat16, all with channels last. It needs torch and torchvision, and
nothing of this project.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canvas", default="800x1344")
    parser.add_argument("--small", action="store_true", help="time only one image, eagerly")
    arguments = parser.parse_args()
    import torch
    import torchvision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    height, width = map(int, arguments.canvas.split("x"))
    batch_sizes, iterations = ((1,), 1) if arguments.small else ((1, 8), 10)

    def build(train: bool) -> Any:
        model = torchvision.models.detection.maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, min_size=height, max_size=width, box_score_thresh=0.0
        )
        return model.to(device).to(memory_format=torch.channels_last).train(train)

    def images(count: int) -> list[Any]:
        generator = torch.Generator().manual_seed(0)
        return [torch.rand(3, height, width, generator=generator).to(device) for _ in range(count)]

    def targets(count: int) -> list[dict[str, Any]]:
        boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.9]]) * torch.tensor([width, height] * 2)
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.long(), strict=True):
            mask[y0:y1, x0:x1] = 1
        one = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
        return [{name: value.to(device) for name, value in one.items()} for _ in range(count)]

    def time_calls(call: Callable[[], Any]) -> float:
        def run() -> float:
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            return 1000 * (time.perf_counter() - start)

        for _ in range(2):
            run()
        return round(statistics.median(run() for _ in range(iterations)), 3)

    def measure(compiled: bool, mixed: bool) -> dict[str, float]:
        times = {}
        context = torch.autocast(device, dtype=torch.bfloat16, enabled=mixed)
        model = build(train=False)
        if compiled:
            model.backbone = torch.compile(model.backbone)
        for count in batch_sizes:
            inputs = images(count)
            with torch.inference_mode(), context:
                times[f"infer_{count}_ms"] = time_calls(functools.partial(model, inputs))
        model, count = build(train=True), batch_sizes[-1]
        if compiled:
            model.backbone = torch.compile(model.backbone)
        optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=1e-5, momentum=0.9)
        inputs, labels = images(count), targets(count)

        def step() -> None:
            with context:
                loss = sum(model(inputs, labels).values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        times[f"train_{count}_ms"] = time_calls(step)
        return times

    report = {"torch": torch.__version__, "torchvision": torchvision.__version__, "device": device}
    kinds = {"eager": (False, False)}
    if not arguments.small:
        kinds |= {"eager_mixed": (False, True), "compiled_mixed": (True, True)}
    for name, (compiled, mixed) in kinds.items():
        report |= {f"{name}_{key}": value for key, value in measure(compiled, mixed).items()}
    if device == "cuda":
        report["peak_mib"] = torch.cuda.max_memory_allocated() >> 20
    print(json.dumps(report))


if __name__ == "__main__":
    main()
