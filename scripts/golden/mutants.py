#!/usr/bin/env python3
"""How far each wrong rule moves a golden model's logits: what the cases can tell apart, and what tolerance does so.

Every line breaks one rule of the reference itself and prints the relative distance of the logits over the prompt, and
how many positions differ by more than 2e-5. The line "float64" is rounding alone.
"""

import copy
import warnings

import numpy as np
import torch
import transformers
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

import make_models
from cases import CASES, llama3

PLAIN = dict(rope_type="default", rope_theta=500000.0)


def logits(case, text=None, change=None):
    """Of the case's weights, under other text config fields, or after change(model)."""
    model = make_models.empty_model(case)
    weights = make_models.weights(case, make_models.tensor_table(case, model))
    if text:
        case = copy.deepcopy(case)
        case.text.update(text)
        model = make_models.empty_model(case)
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    if change:
        change(model)
    return make_models.run(case, model)["logits"]


def score_on_output(model):
    class Wrong(Llama4TextMoe):
        def forward(self, x):
            x = x.reshape(-1, self.hidden_dim)
            scores, router_logits = self.router(x)
            routed = self.experts(x.repeat(scores.shape[1], 1)) * scores.transpose(0, 1).reshape(-1, 1)
            return self.shared_expert(x) + routed.reshape(scores.shape[1], -1, x.shape[1]).sum(0), router_logits

    for module in model.modules():
        if type(module) is Llama4TextMoe:
            module.__class__ = Wrong


def tanh_gelu(model):
    for module in model.vision_model.modules():
        if hasattr(module, "activation_fn"):
            module.activation_fn = torch.nn.GELU(approximate="tanh")


def swap_xy(model):
    table = model.vision_model.rotary_embedding
    table.freqs_ci = torch.cat(table.freqs_ci.chunk(2, dim=-1)[::-1], dim=-1)


def drop_bias(which):
    def change(model):
        for layer in make_models.text_model(model).model.layers:
            getattr(layer.self_attn, which + "_proj").bias.data.zero_()

    return change


def mutants(case):
    """(what, arguments of logits()) of every mutation that could matter to this case."""
    config = make_models.hf_config(case).get_text_config()
    yield "float64", dict(change=lambda model: model.double())
    yield "temperature toggled", dict(text=dict(attn_temperature_tuning=not config.attn_temperature_tuning))
    yield "floor_scale + 1", dict(text=dict(floor_scale=config.floor_scale + 1))
    yield "attn_scale * 1.1", dict(text=dict(attn_scale=config.attn_scale * 1.1))
    yield "no chunks", dict(text=dict(layer_types=["full_attention"] * config.num_hidden_layers))
    yield "chunk + 1", dict(text=dict(attention_chunk_size=config.attention_chunk_size + 1))
    yield "rope in every layer", dict(text=dict(no_rope_layers=[1] * config.num_hidden_layers,
                                                layer_types=config.layer_types))
    yield "layer_types by default", dict(text=dict(layer_types=None))
    yield "qk norm toggled", dict(text=dict(use_qk_norm=not config.use_qk_norm))
    yield "eps * 2", dict(text=dict(rms_norm_eps=config.rms_norm_eps * 2))
    yield "rope plain, theta 5e5", dict(text=dict(rope_parameters=PLAIN))
    yield "rope llama3 8/1/4", dict(text=dict(rope_parameters=llama3(8.0, 1.0, 4.0)))
    if config.moe_layers:
        yield "router score on output", dict(change=score_on_output)
    if config.num_experts_per_tok > 1:
        yield "one expert", dict(text=dict(num_experts_per_tok=1))
    if config.attention_bias:
        for which in "qkvo":
            yield f"no {which} bias", dict(change=drop_bias(which))
    if case.vision is not None:
        yield "vision gelu by tanh", dict(change=tanh_gelu)
        yield "vision rope x, y swapped", dict(change=swap_xy)


def main():
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    for case in CASES:
        right = logits(case)
        print(case.name, flush=True)
        for what, arguments in mutants(case):
            wrong = logits(case, **arguments)
            rows = np.linalg.norm(wrong - right, axis=1) / np.linalg.norm(right, axis=1)
            total = np.linalg.norm(wrong - right) / np.linalg.norm(right)
            print(f"  {what:26} {total:8.2g}   {int((rows > 2e-5).sum())} of {len(rows)} positions", flush=True)


if __name__ == "__main__":
    main()
