"""The demo's teacher: FCOS with tricks on a narrow ResNet-18, from scratch on generated shapes.

accelerate launch recipes/train.py recipes/supervised/fcos_r18w24_shapes.py

The demo's students see 600 of its 8,000 training images; all are measured on the same 150 others. The file in the
package took 4,000 steps too, the first 2,138 of them at the higher rates of a course of 16 epochs, and on an earlier,
harder drawing of the shapes.
"""

from pkdzoo.training import Data, Logging, Optim, Recipe, Schedule, Warmup

RECIPE = Recipe(
    "fcos_r18w24_shapes",
    "fcos_r18w24",
    data=Data(
        short=128,
        long=160,
        eval_batch_size=16,
        min_image_size=0,
        generate={"train": 8000, "val": 150, "size": (128, 160)},
    ),
    optim=Optim("adamw", lr=2e-3, weight_decay=0.05, clip=10.0),
    schedule=Schedule(epochs=8, decay="cosine", warmup=Warmup(steps=200)),
    logging=Logging(log_every=100, save_every=100, eval_every=2),
)
