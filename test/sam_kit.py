# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small networks of transformers that carry masks on, with random weights, saved in folders."""

import torch
import transformers

SIDE = 64
"""Of the networks' input, pixels."""
_LEVELS = [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2]
_WIDTH = 128
_PYRAMID = {'backbone_feature_sizes': _LEVELS, 'fpn_hidden_size': _WIDTH}
_HEADS = {
    'prompt_encoder_config': {
        'hidden_size': _WIDTH,
        'image_size': SIDE,
        'patch_size': 16,
        'mask_input_channels': 8,
    },
    'mask_decoder_config': {
        'hidden_size': _WIDTH,
        'mlp_dim': 32,
        'num_hidden_layers': 1,
        'num_attention_heads': 2,
        'iou_head_hidden_dim': 16,
    },
    'image_size': SIDE,
    'memory_attention_hidden_size': _WIDTH,
    'memory_attention_num_layers': 1,
    'memory_attention_rope_feat_sizes': _LEVELS[-1],
    'memory_encoder_hidden_size': _WIDTH,
    'mask_downsampler_embed_dim': _WIDTH,
    'memory_fuser_embed_dim': _WIDTH,
    'memory_fuser_num_layers': 1,
    'memory_fuser_intermediate_dim': 32,
}
_SAM3_VISION = {
    'model_type': 'sam3_vision_model',
    'backbone_config': {
        'model_type': 'sam3_vit_model',
        'hidden_size': 32,
        'intermediate_size': 32,
        'num_hidden_layers': 2,
        'num_attention_heads': 2,
        'image_size': SIDE,
        'patch_size': 16,
        'window_size': 2,
        'global_attn_indexes': [1],
        'pretrain_image_size': SIDE,
    },
    **_PYRAMID,
}


def _sam2():
    backbone = {
        'model_type': 'sam2_hiera_det_model',
        'hidden_size': 8,
        'image_size': [SIDE, SIDE],
        'blocks_per_stage': [1, 1, 2, 1],
        'embed_dim_per_stage': [8, 16, 32, 64],
        'num_attention_heads_per_stage': [1, 1, 2, 2],
        'window_size_per_stage': [4, 4, 4, 4],
        'global_attention_blocks': [3],
    }
    vision = {
        'model_type': 'sam2_vision_model',
        'backbone_config': backbone,
        'backbone_channel_list': [64, 32, 16, 8],
        **_PYRAMID,
    }
    config = transformers.Sam2VideoConfig(
        vision_config=vision, memory_attention_feed_forward_hidden_size=32, **_HEADS
    )
    return transformers.Sam2VideoModel(config)


def _edgetam():
    """The backbone is the published one; its library has none that is smaller."""
    backbone = {
        'model_type': 'timm_wrapper',
        'architecture': 'repvit_m1',
        'num_classes': 2,
        'model_args': {'in_chans': 3, 'features_only': True, 'out_indices': [0, 1, 2, 3]},
    }
    vision = {'model_type': 'edgetam_vision_model', 'backbone_config': backbone, **_PYRAMID}
    config = transformers.EdgeTamVideoConfig(
        vision_config=vision,
        memory_attention_mlp_hidden_size=32,
        memory_attention_rope_k_sizes=[2, 2],
        perceiver_resampler_num_latents=4,
        perceiver_resampler_num_latents_2d=4,
        perceiver_resampler_mlp_intermediate_size=16,
        perceiver_resampler_num_layers=1,
        **_HEADS,
    )
    return transformers.EdgeTamVideoModel(config)


def _sam3_config():
    return transformers.Sam3TrackerVideoConfig(
        vision_config=_SAM3_VISION, memory_attention_feed_forward_hidden_size=32, **_HEADS
    )


def _sam3():
    return transformers.Sam3TrackerVideoModel(_sam3_config())


def _sam3_video():
    """The form of the published file: the tracker stands beside a detector."""
    small = {'hidden_size': 32, 'num_attention_heads': 2, 'intermediate_size': 32}
    layers = small | {'num_layers': 1}
    text = small | {'num_hidden_layers': 1, 'vocab_size': 16, 'projection_dim': 16}
    ends = {'pad_token_id': 1, 'bos_token_id': 2, 'eos_token_id': 3}
    detector = transformers.Sam3Config(
        vision_config=_SAM3_VISION,
        text_config={'model_type': 'clip_text_model'} | text | ends,
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config=layers | {'num_queries': 4},
        mask_decoder_config={'hidden_size': 32, 'num_attention_heads': 2},
    )
    config = transformers.Sam3VideoConfig(detector_config=detector, tracker_config=_sam3_config())
    return transformers.Sam3VideoModel(config)


KINDS = {'sam2': _sam2, 'edgetam': _edgetam, 'sam3': _sam3, 'sam3_video': _sam3_video}


def save(name, folder):
    """Save the network of a kind, whose objects are always there, with its image processor."""
    torch.manual_seed(0)
    model = KINDS[name]()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # Many begin as zeros; with little noise the memory would hardly be seen in the masks.
            parameter += (0.05 if 'backbone' in key else 0.15) * torch.randn_like(parameter)
            if 'pred_obj_score_head.proj_out' in key:
                parameter.fill_(5.0 if key.endswith('bias') else 0.0)
    model.save_pretrained(folder)
    kind = transformers.Sam2ImageProcessor
    if name.startswith('sam3'):
        kind = transformers.Sam3ImageProcessor
    kind(size={'height': SIDE, 'width': SIDE}).save_pretrained(folder)
