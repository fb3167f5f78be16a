"""What bfloat16 gains in prediction, and the accuracy that it costs, on annotated images.

    python -m benchmarks.half runs/nuclei D/nuclei/val runs/cbc D/cbc/Testing

Each model predicts all images of its data set twice, in float32 and in bfloat16, and both are measured by the
same metrics. Seconds are those of predicting alone, without decoding files.
"""

import argparse
from dataclasses import replace
from typing import Literal

from rcnn import evaluate, load, open_data
from rcnn.inference.benchmark import machine

SHOWN = ("mask/AP", "mask/AP50", "box/AP", "box/AP50", "voc07/mAP")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", nargs="+", metavar="MODEL DATA", help="models, each followed by its data")
    options = parser.parse_args()
    if len(options.pairs) % 2:
        parser.error(f"{len(options.pairs)} arguments, expected a data set after each model")
    print(machine())
    for model, place in zip(options.pairs[::2], options.pairs[1::2], strict=True):
        detector, data = load(model), open_data(place)
        # The first images warm up: kernels are chosen, weights converted.
        results = {}
        precisions: tuple[Literal["float32", "bf16"], ...] = ("float32", "bf16")
        for name in precisions:
            chosen = replace(detector, precision=name)
            chosen.predict([data[i].image for i in range(min(3, len(data)))])
            results[name], _ = evaluate(chosen, data, metrics=["coco", "voc07"])
        print(f"{model} on {place}, {len(data)} images")
        for name, result in results.items():
            metrics = ", ".join(f"{k} {result.metrics[k]:.4f}" for k in SHOWN if k in result.metrics)
            print(f"  {name:9} {result.seconds['predicting']:.3f} s per image, {metrics}")
        exact, half_result = results.values()
        lost = {k: exact.metrics[k] - half_result.metrics[k] for k in SHOWN if k in exact.metrics}
        ratio = exact.seconds["predicting"] / half_result.seconds["predicting"]
        print(f"  {ratio:.2f} times faster; lost: " + ", ".join(f"{k} {v:+.4f}" for k, v in lost.items()))


if __name__ == "__main__":
    main()
