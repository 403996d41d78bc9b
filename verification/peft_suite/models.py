"""Small random models under the hub names that PEFT's checks load: a local folder of that name is
tried before the hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["save_models"]

SIZE = {
    "vocab_size": 1024,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FORWARD = {**SIZE, "intermediate_size": 32}
GROUPED = {**FORWARD, "num_key_value_heads": 2}
GPT = {"vocab_size": 1024, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
PAIR = {
    "vocab_size": 1024,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "max_position_embeddings": 64,
}
HEADS = {
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
LETTERS = {"bos_token_id": 3, "pad_token_id": 0, "eos_token_id": 4}
T5 = {
    "vocab_size": 1024,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": (
        "OPTForCausalLM",
        "OPTConfig",
        {**SIZE, **LETTERS, "ffn_dim": 32, "word_embed_proj_dim": 16},
    ),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {**GPT, **LETTERS},
    ),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": (
        "GPTJForCausalLM",
        "GPTJConfig",
        {**GPT, **LETTERS, "rotary_dim": 4},
    ),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**GROUPED, **LETTERS},
    ),
    "peft-internal-testing/tiny-dummy-qwen2": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {**GROUPED, **LETTERS},
    ),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**GROUPED, **LETTERS, "head_dim": 4},
    ),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": (
        "T5ForConditionalGeneration",
        "T5Config",
        T5,
    ),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": (
        "BartForConditionalGeneration",
        "BartConfig",
        {**PAIR, **HEADS, **LETTERS},
    ),
    "peft-internal-testing/tiny-random-BertModel": ("BertModel", "BertConfig", FORWARD),
    "peft-internal-testing/tiny-random-RobertaModel": ("RobertaModel", "RobertaConfig", FORWARD),
    "peft-internal-testing/tiny-random-DebertaModel": ("DebertaModel", "DebertaConfig", FORWARD),
    "peft-internal-testing/tiny-random-DebertaV2Model": (
        "DebertaV2Model",
        "DebertaV2Config",
        FORWARD,
    ),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (
        "BertForSequenceClassification",
        "BertConfig",
        FORWARD,
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "RobertaForSequenceClassification",
        "RobertaConfig",
        FORWARD,
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "LlamaForSequenceClassification",
        "LlamaConfig",
        {**GROUPED, **LETTERS},
    ),
}
"""Name on the hub: the class of the model, that of its configuration, and its size."""


def save_models(folder: Path) -> None:
    """Write the models that the folder does not have yet."""
    for number, (name, (model, config, size)) in enumerate(MODELS.items()):
        if not (folder / name / "config.json").exists():
            torch.manual_seed(number)
            getattr(transformers, model)(getattr(transformers, config)(**size)).save_pretrained(
                folder / name
            )
