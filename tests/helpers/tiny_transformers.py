"""Tiny models of transformers with random weights."""

from __future__ import annotations

from typing import Any

import torch

KINDS = ("rt_detr", "rt_detr_v2", "d_fine")  # these can learn, too
TEACHERS = ("deimv2", "rf_detr")


def tiny_model(kind: str, seed: int = 0) -> Any:
    """A detector of three classes whose maps are 32 wide: of stride 8, 16 and 32, of an RF-DETR of stride 14."""
    import transformers

    common = {
        "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "encoder_attention_heads": 2, "d_model": 32,
        "num_queries": 20, "decoder_in_channels": [32] * 3, "decoder_ffn_dim": 32, "decoder_layers": 2,
        "decoder_attention_heads": 2, "num_denoising": 4, "num_labels": 3,
    }  # fmt: skip
    torch.manual_seed(seed)
    if kind == "rf_detr":
        vit = transformers.RfDetrDinov2Config(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=112, patch_size=14, num_windows=2,
            out_indices=[2, 4],
        )  # fmt: skip
        config = transformers.RfDetrConfig(
            backbone_config=vit, d_model=32, decoder_layers=2, decoder_ffn_dim=32, decoder_self_attention_heads=2,
            decoder_cross_attention_heads=2, num_queries=20, group_detr=1, num_labels=3,
        )  # fmt: skip
        return transformers.RfDetrForObjectDetection(config).eval()
    if kind in ("d_fine", "deimv2"):
        body = transformers.HGNetV2Config(
            num_channels=3, embedding_size=8, stem_channels=[3, 8, 8], hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1], stage_in_channels=[8, 8, 16, 24], stage_mid_channels=[8, 8, 8, 8],
            stage_out_channels=[8, 16, 24, 32], stage_num_blocks=[1] * 4, stage_downsample=[False, True, True, True],
            stage_light_block=[False, False, True, True], stage_kernel_size=[3, 3, 5, 5], stage_numb_of_layers=[2] * 4,
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
        name = "DFine" if kind == "d_fine" else "Deimv2"
        config = getattr(transformers, f"{name}Config")(
            backbone_config=body, encoder_in_channels=[16, 24, 32], **common
        )
        return getattr(transformers, f"{name}ForObjectDetection")(config).eval()
    body = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    name = "RTDetrV2" if kind == "rt_detr_v2" else "RTDetr"
    config = getattr(transformers, f"{name}Config")(backbone_config=body, encoder_in_channels=[16, 24, 32], **common)
    return getattr(transformers, f"{name}ForObjectDetection")(config).eval()
