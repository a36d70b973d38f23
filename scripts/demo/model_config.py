"""The demo model's shape: every feature of Llama 4 at a size that trains in a quarter of an hour."""

import json
from pathlib import Path

from transformers import Llama4Config

MAX_POSITIONS = 32768


def make_config(folder):
    """folder holds tokenizer.json, which fixes the ids of the special tokens"""
    added = json.loads((Path(folder) / "tokenizer.json").read_text())["added_tokens"]
    tid = {t["content"][2:-2]: t["id"] for t in added}
    eos = [tid["end_of_text"], tid["eom"], tid["eot"]]
    text = dict(
        vocab_size=max(tid.values()) + 1, hidden_size=256, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2, head_dim=128,
        intermediate_size=256, intermediate_size_mlp=256, num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=2,
        use_qk_norm=True, no_rope_layer_interval=4, attention_chunk_size=512, attn_temperature_tuning=True, floor_scale=1024, attn_scale=0.1,
        max_position_embeddings=MAX_POSITIONS, rms_norm_eps=1e-5, hidden_act="silu", attention_bias=False, tie_word_embeddings=False,
        # as Scout: a factor of 16 above the chunk length, with a hard step
        rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0,
                             original_max_position_embeddings=512),
        bos_token_id=tid["begin_of_text"], eos_token_id=eos, pad_token_id=tid["finetune_right_pad"], initializer_range=0.02)
    vision = dict(
        hidden_size=256, num_hidden_layers=3, num_attention_heads=4, intermediate_size=1024, image_size=336, patch_size=14, num_channels=3,
        pixel_shuffle_ratio=0.5, projector_input_dim=256, projector_output_dim=256, vision_output_dim=256, norm_eps=1e-5,
        multi_modal_projector_bias=False, hidden_act="gelu", rope_theta=10000)
    config = Llama4Config(text_config=text, vision_config=vision, boi_token_index=tid["image_start"], eoi_token_index=tid["image_end"],
                          image_token_index=tid["patch"], tie_word_embeddings=False, dtype="bfloat16")
    config.architectures = ["Llama4ForConditionalGeneration"]
    return config
