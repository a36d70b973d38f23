"""The golden models: what each one is for, its configuration, prompt and seed.

Ids of all cases: 0 bos, 1 eos, 2 pad; the six image tokens lie at the end of the vocabulary (see Case.image_ids).
Seeds and prompts were found by `make_models.py --search`, which also states the rules that they must keep.
"""

import random
from dataclasses import dataclass, field

TEXT = dict(
    vocab_size=160, hidden_size=64, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=48, intermediate_size_mlp=96, num_local_experts=4, num_experts_per_tok=1,
    interleave_moe_layer_step=1, attention_chunk_size=8, floor_scale=4, attn_scale=0.1, max_position_embeddings=4096,
    rms_norm_eps=1e-5, use_qk_norm=True, bos_token_id=0, eos_token_id=[1], pad_token_id=2,
)
VISION = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=56, patch_size=14,
    projector_input_dim=40, projector_output_dim=40, vision_output_dim=40,
)
SMALL = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
             intermediate_size=24, intermediate_size_mlp=48)


def llama3(factor, low, high, original=64):
    """Wavelengths of head_dim 16 and theta 5e5 are 6, 32, 167, ...: 64 puts the band between them."""
    return dict(rope_type="llama3", rope_theta=500000.0, factor=factor, low_freq_factor=low, high_freq_factor=high,
                original_max_position_embeddings=original)


ABSENT = object()  # in written_config: the field is removed


@dataclass
class Case:
    name: str
    about: str
    seed: int = 1                                 # of weights and pixels
    words: int = 0                                # which of the case's prompts
    text: dict = field(default_factory=dict)      # over TEXT
    vision: dict | None = None                    # over VISION; None: Llama4ForCausalLM
    images: tuple = ()                            # (rows, cols) of each image's tiles
    n_prompt: int = 75
    logits_every: int = 1                         # positions whose logits are stored, besides chunk edges
    stored: bool = False                          # keep the checkpoint as save_pretrained wrote it
    max_shard_size: str | None = None
    written_config: dict = field(default_factory=dict)  # what config.json says instead, or ABSENT
    v4_config: bool = False                       # config.json rewritten in the style of transformers 4
    bf16: bool = False                            # store the bf16 model's logits too
    gains: dict = field(default_factory=dict)     # over make_models.GAINS

    @property
    def text_config(self):
        return {**TEXT, **self.text}

    @property
    def vision_config(self):
        return None if self.vision is None else {**VISION, **self.vision}

    @property
    def image_ids(self):
        v = self.text_config["vocab_size"]
        return dict(image=v - 7, patch=v - 6, start=v - 5, end=v - 4, tile_x=v - 3, tile_y=v - 2)

    @property
    def tokens_per_tile(self):
        v = self.vision_config
        return (v["image_size"] // v["patch_size"]) ** 2 // 4

    def image_block(self, rows, cols):
        """The ids one image becomes: the processor's expansion of one <|image|> placeholder."""
        ids, patch = self.image_ids, [self.image_ids["patch"]] * self.tokens_per_tile
        block = [ids["start"]]
        if rows * cols > 1:
            for _ in range(rows):
                for col in range(cols):
                    block += patch + [ids["tile_x"]] * (col + 1 < cols)
                block.append(ids["tile_y"])
        return block + [ids["image"]] + patch + [ids["end"]]

    def prompt(self):
        """(ids, images): bos, then words with the images spread among them, n_prompt ids in all."""
        rng = random.Random(f"prompt {self.words} of {self.name}")
        blocks = [self.image_block(r, c) for r, c in self.images]
        n_words = self.n_prompt - 1 - sum(map(len, blocks))
        assert n_words > 2 * len(blocks)
        words = [rng.randrange(3, self.image_ids["image"]) for _ in range(n_words)]
        ids, images, first_tile = [0], [], 0
        for i, ((rows, cols), block) in enumerate(zip(self.images, blocks)):
            ids += words[i * n_words // (len(blocks) + 1):(i + 1) * n_words // (len(blocks) + 1)]
            n_tiles = rows * cols + (rows * cols > 1)
            images.append(dict(rows=rows, cols=cols, first_tile=first_tile, n_tiles=n_tiles, first_id=len(ids),
                               n_ids=len(block)))
            first_tile += n_tiles
            ids += block
        ids += words[len(blocks) * n_words // (len(blocks) + 1):]
        assert len(ids) == self.n_prompt
        return ids, images


CASES = [
    Case("scout", "Scout's shape: every layer MoE, QK norm, llama3 rope 16/1/1, one image of 2x2 tiles",
         seed=1, words=18, text=dict(rope_parameters=llama3(16.0, 1.0, 1.0)), vision={}, images=((2, 2),)),
    Case("maverick", "Maverick's shape: dense and MoE layers alternate, no QK norm, plain rope, three images",
         seed=32, words=0, text=dict(use_qk_norm=False, interleave_moe_layer_step=2), vision={},
         images=((1, 1), (1, 2), (1, 1)), bf16=True, gains={"embed": 4.0}),
    Case("top2", "two experts a token, of five",
         seed=2, words=4, text=dict(num_experts_per_tok=2, num_local_experts=5)),
    Case("rope_8_1_4", "llama3 rope with a band that is interpolated: factor 8, low 1, high 4",
         seed=2, words=3, text=dict(rope_parameters=llama3(8.0, 1.0, 4.0))),
    Case("temperature_off", "attn_temperature_tuning false; attention_chunk_size 5, no multiple of anything",
         seed=2, words=9, text=dict(attn_temperature_tuning=False, attention_chunk_size=5)),
    Case("odd_lists", "no_rope_layers, layer_types and moe_layers given and independent of each other: rope with full "
         "attention, no rope with chunked attention, no rope twice running",
         seed=3, words=14, text=dict(no_rope_layers=[0, 1, 1, 0, 0, 1, 0, 1], moe_layers=[0, 3, 4, 6],
                   layer_types=["chunked_attention" if c == "c" else "full_attention" for c in "cfccfcff"])),
    Case("odd_numbers", "sizes without common factors, head_dim unequal to hidden / heads, eps 0.01, theta 10000, "
         "attn_scale 0.37, a NoPE layer every 3, MoE every 3",
         seed=5, words=16,
         text=dict(vocab_size=131, hidden_size=60, num_hidden_layers=7, num_attention_heads=3, num_key_value_heads=1,
                   head_dim=24, intermediate_size=36, intermediate_size_mlp=52, num_local_experts=3,
                   interleave_moe_layer_step=3, no_rope_layer_interval=3, attention_chunk_size=12, floor_scale=5,
                   attn_scale=0.37, rms_norm_eps=1e-2,
                   rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    Case("attention_bias", "attention_bias true: biases on q, k, v and o",
         seed=1, words=17, text=dict(attention_bias=True)),
    Case("tied", "tie_word_embeddings true: no lm_head in the file",
         seed=1, words=15, text=dict(tie_word_embeddings=True), gains={"embed": 0.6}),
    Case("dense_only", "moe_layers [] means no MoE at all",
         seed=1, words=14, text=dict(moe_layers=[], use_qk_norm=False)),
    Case("chunk_null", "attention_chunk_size null, which transformers refuses: computed with every layer_type "
         "full_attention, which is what null means; layer_types is absent from config.json",
         seed=3, words=17, text=dict(layer_types=["full_attention"] * 8),
         written_config={"attention_chunk_size": None, "layer_types": ABSENT}),
    Case("wide", "the kernels' shapes: head_dim 128, 5 query heads a kv head, vision heads of 88, a chunk of 128 in "
         "140 tokens",
         seed=11, words=13,
         text=dict(vocab_size=256, hidden_size=256, num_hidden_layers=4, num_attention_heads=5, num_key_value_heads=1,
                   head_dim=128, intermediate_size=128, intermediate_size_mlp=256, num_local_experts=8,
                   interleave_moe_layer_step=2, attention_chunk_size=128, floor_scale=32,
                   rope_parameters=llama3(16.0, 1.0, 1.0, 8192)),
         vision=dict(hidden_size=176, num_attention_heads=2, intermediate_size=704, image_size=84,
                     projector_input_dim=128, projector_output_dim=128, vision_output_dim=128),
         images=((1, 2),), n_prompt=140, logits_every=3, bf16=True, gains={"embed": 4.0}),
    Case("stored_multimodal", "a checkpoint with a vision tower, one file, config.json as transformers 5 writes it",
         seed=2, words=2, text=dict(SMALL), vision=dict(num_hidden_layers=1), images=((1, 1),), stored=True),
    Case("stored_sharded", "a text-only checkpoint (Llama4ForCausalLM) in several files with an index",
         seed=3, words=0, text=dict(SMALL, interleave_moe_layer_step=2), stored=True, max_shard_size="30KB"),
    Case("stored_v4", "config.json in the style of transformers 4, by hand: rope_theta and rope_scaling, torch_dtype, "
         "no_rope_layers [], attn_temperature_tuning 4, no layer_types, moe_layers, floor_scale or attn_scale",
         seed=2, words=9, text=dict(SMALL, rope_parameters=llama3(16.0, 1.0, 1.0), floor_scale=8192),
         vision=dict(num_hidden_layers=1), images=((1, 1),), stored=True, v4_config=True),
]
