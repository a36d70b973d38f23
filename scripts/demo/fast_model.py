"""A fast training forward pass over the parameters of transformers' Llama4ForConditionalGeneration.

Same arithmetic as the stock model, in a form that compiles to one graph: samples are packed into one stream, attention uses
variable-length flash attention, and the experts are computed as one wide matrix product with the unchosen ones masked out.
Saved models are always checked with the stock code (eval_hf.py, and test_fast_model in train.py --check).
"""

import torch
import torch.nn.functional as F
from torch import nn

from render import pixel_table


def rms(x, eps=1e-5):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rotate(x, cos, sin):
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def attention_packed(q, k, v, cu, longest):
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn
        return varlen_attn(q, k, v, cu, cu, longest, longest, window_size=(-1, 0))
    # slow form for tests on the CPU
    doc = torch.bucketize(torch.arange(len(q)), cu[1:].long(), right=True)
    mask = (doc[:, None] == doc[None, :]).tril()
    rep = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(rep, 1).transpose(0, 1) for t in (k, v))
    return F.scaled_dot_product_attention(q.transpose(0, 1), k, v, attn_mask=mask).transpose(0, 1)


class FastModel(nn.Module):
    def __init__(self, hf, longest, aux_weight=0.01, dtype=torch.float32):
        """dtype: of the activations; bfloat16 needs autocast around the call"""
        super().__init__()
        self.dtype = dtype
        self.hf, self.longest, self.aux_weight = hf, longest, aux_weight
        self.config = hf.config
        self.register_buffer("pixels", pixel_table(), persistent=False)
        vc = hf.config.vision_config
        freqs = hf.vision_model.rotary_embedding.freqs_ci.reshape(-1, vc.hidden_size // vc.num_attention_heads // 2)
        self.register_buffer("vision_cos", freqs.real.float().clone(), persistent=False)
        self.register_buffer("vision_sin", freqs.imag.float().clone(), persistent=False)
        self.register_buffer("inv_freq", hf.language_model.model.rotary_emb.inv_freq.float().clone(), persistent=False)

    # -- vision ------------------------------------------------------------------------------------------------------

    def vision(self, tiles):
        m, c = self.hf.vision_model, self.config.vision_config
        n, g, p = len(tiles), c.image_size // c.patch_size, c.patch_size
        x = self.pixels[tiles.int()].to(self.dtype)
        x = x.view(n, 3, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(n, g * g, 3 * p * p)
        x = F.linear(x, m.patch_embedding.linear.weight)
        x = torch.cat([x, m.class_embedding.to(x.dtype).expand(n, 1, -1)], 1) + m.positional_embedding_vlm.to(x.dtype)
        x = self.layer_norm(m.layernorm_pre, x)
        heads = c.num_attention_heads
        for layer in m.model.layers:
            h, a = self.layer_norm(layer.input_layernorm, x), layer.self_attn
            q, k, v = (F.linear(h, w.weight, w.bias).unflatten(-1, (heads, -1)).transpose(1, 2) for w in (a.q_proj, a.k_proj, a.v_proj))
            q, k = rotate(q, self.vision_cos, self.vision_sin).to(v.dtype), rotate(k, self.vision_cos, self.vision_sin).to(v.dtype)
            h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + F.linear(h, a.o_proj.weight, a.o_proj.bias)
            h = self.layer_norm(layer.post_attention_layernorm, x)
            h = F.gelu(F.linear(h, layer.mlp.fc1.weight, layer.mlp.fc1.bias))
            x = x + F.linear(h, layer.mlp.fc2.weight, layer.mlp.fc2.bias)
        x = self.layer_norm(m.layernorm_post, x)[:, :-1]
        d = x.shape[-1]  # pixel shuffle: 2 x 2 neighbours side by side
        x = x.view(n, g // 2, 2, g // 2, 2, d).permute(0, 1, 3, 2, 4, 5).reshape(n, g * g // 4, 4 * d)
        mlp = m.vision_adapter.mlp
        x = F.gelu(F.linear(F.gelu(F.linear(x, mlp.fc1.weight)), mlp.fc2.weight))
        return F.linear(x, self.hf.multi_modal_projector.linear_1.weight).flatten(0, 1)

    @staticmethod
    def layer_norm(norm, x):
        return F.layer_norm(x.float(), (x.shape[-1],), norm.weight, norm.bias, norm.eps).to(x.dtype)

    # -- text --------------------------------------------------------------------------------------------------------

    def norm(self, norm, x):
        return rms(x).to(x.dtype) * norm.weight.to(x.dtype)

    def attention(self, layer, i, x, cos, sin, temperature, batch):
        a, c = layer.self_attn, self.config.text_config
        q, k, v = (F.linear(x, w.weight).unflatten(-1, (-1, c.head_dim)) for w in (a.q_proj, a.k_proj, a.v_proj))
        if c.no_rope_layers[i]:
            q, k = (rms(rotate(t, cos, sin)).to(v.dtype) for t in (q, k))
            out = attention_packed(q, k, v, batch["cu_local"], c.attention_chunk_size)
        else:
            q = (q * temperature).to(v.dtype)
            out = attention_packed(q, k, v, batch["cu_global"], self.longest)
        return F.linear(out.flatten(1), a.o_proj.weight)

    def mlp(self, m, x):
        return F.linear(F.silu(F.linear(x, m.gate_proj.weight)) * F.linear(x, m.up_proj.weight), m.down_proj.weight)

    def moe(self, m, x):
        """-> output, load-balancing loss"""
        e, d, f2 = m.experts.gate_up_proj.shape
        logits = F.linear(x, m.router.weight)
        top, choice = logits.max(-1)
        chosen = F.one_hot(choice, e)
        xr = x * torch.sigmoid(top.float()).to(x.dtype)[:, None]
        gate_up = F.linear(xr, m.experts.gate_up_proj.transpose(1, 2).reshape(e * f2, d)).view(-1, e, 2, f2 // 2)
        h = F.silu(gate_up[:, :, 0]) * gate_up[:, :, 1] * chosen[:, :, None].to(x.dtype)
        routed = h.flatten(1) @ m.experts.down_proj.flatten(0, 1).to(h.dtype)
        # Switch Transformer's balance: e * sum over experts of (share of tokens) * (mean router probability)
        aux = e * (chosen.float().mean(0) * logits.float().softmax(-1).mean(0)).sum()
        return routed + self.mlp(m.shared_expert, x), aux

    def hidden(self, batch):
        m, c = self.hf.language_model.model, self.config.text_config
        dtype = self.dtype
        x = F.embedding(batch["ids"].long(), m.embed_tokens.weight).to(dtype)
        features = self.vision(batch["tiles"]).to(dtype)
        # one row more takes the features of unused tiles
        x = torch.cat([x, x.new_zeros(1, x.shape[1])]).index_copy(0, batch["patch_at"], features)[:-1]
        pos = batch["positions"].float()
        angle = pos[:, None] * self.inv_freq
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        temperature = (torch.log1p(torch.floor((pos + 1) / c.floor_scale)) * c.attn_scale + 1)[:, None, None]
        aux = 0.0
        for i, layer in enumerate(m.layers):
            x = x + self.attention(layer, i, self.norm(layer.input_layernorm, x), cos, sin, temperature, batch)
            h = self.norm(layer.post_attention_layernorm, x)
            if layer.is_moe_layer:
                y, balance = self.moe(layer.feed_forward, h)
                aux = aux + balance / len(c.moe_layers)
            else:
                y = self.mlp(layer.feed_forward, h)
            x = x + y
        return self.norm(m.norm, x), aux

    def forward(self, batch):
        """-> loss, cross entropy, balance loss, correct [labels] bool"""
        x, aux = self.hidden(batch)
        logits = F.linear(x[batch["label_at"]], self.hf.language_model.lm_head.weight).float()
        w = batch["label_weight"]
        ce = (F.cross_entropy(logits, batch["labels"], reduction="none") * w).sum() / w.sum().clamp(min=1)
        return ce + self.aux_weight * aux, ce.detach(), aux.detach(), logits.argmax(-1) == batch["labels"]
