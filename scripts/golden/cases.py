"""The golden models: what each one is for, its configuration, prompt and seed.

Ids of all cases: 0 bos, 1 eos, 2 pad; the six image tokens lie at the end of the vocabulary (see Case.image_ids).
Seeds were found by `make_models.py --search`; make_models.py refuses a seed that breaks the rules stated there.
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


@dataclass
class Case:
    name: str
    about: str
    seed: int = 0
    text: dict = field(default_factory=dict)      # over TEXT
    vision: dict | None = None                    # over VISION; None: Llama4ForCausalLM
    images: tuple = ()                            # (rows, cols) of each image's tiles
    n_prompt: int = 75
    logits_every: int = 1                         # positions whose logits are stored, besides chunk edges
    stored: bool = False                          # keep the checkpoint as save_pretrained wrote it
    max_shard_size: str | None = None
    written_config: dict | None = None            # replaces fields of config.json after saving; None removes one
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
        rng = random.Random("prompt of " + self.name)
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
         seed=13, text=dict(rope_parameters=llama3(16.0, 1.0, 1.0)), vision={}, images=((2, 2),)),
    Case("maverick", "Maverick's shape: dense and MoE layers alternate, no QK norm, plain rope, three images",
         seed=222, text=dict(use_qk_norm=False, interleave_moe_layer_step=2), vision={},
         images=((1, 1), (1, 2), (1, 1)), bf16=True),
]
