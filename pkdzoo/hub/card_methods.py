"""One sentence for the cards on each method with which weights of the zoo were distilled."""

METHODS = {
    "pkd": "[PKD](https://arxiv.org/abs/2207.02039) correlates the feature pyramids.",
    "crosskd": "[CrossKD](https://arxiv.org/abs/2306.11369) passes the student's features through the teacher's head.",
    "cwd": "[CWD](https://arxiv.org/abs/2011.13256) compares where each channel is active.",
    "norm_cwd": "It is [CWD](https://arxiv.org/abs/2011.13256), which compares where each channel is active, on "
    "normalized maps.",
    "fbkd": "[FBKD](https://openreview.net/forum?id=uKhGRvM8QNH) imitates features where attention is high, and "
    "relations of pixels.",
    "fgd": "[FGD](https://arxiv.org/abs/2111.11837) weighs features by objects and attention, and compares global "
    "relations.",
    "ld": "[LD](https://arxiv.org/abs/2102.12252) imitates the distributions of box edges.",
    "mgd": "[MGD](https://arxiv.org/abs/2205.01529) generates the teacher's features from masked ones of the student.",
}
