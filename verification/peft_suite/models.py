"""Small random models under the hub names that PEFT's checks load: a local folder of that name is
tried before the hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["save_models"]

VOCABULARY = {"vocab_size": 1024}
SIZE = VOCABULARY | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZE |= {"max_position_embeddings": 64}
FORWARD = SIZE | {"intermediate_size": 32}
LETTERS = {"bos_token_id": 3, "pad_token_id": 0, "eos_token_id": 4}
GROUPED = FORWARD | LETTERS | {"num_key_value_heads": 2}
GPT = VOCABULARY | LETTERS | {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = SIZE | LETTERS | {"ffn_dim": 32, "word_embed_proj_dim": 16}
PAIR = VOCABULARY | LETTERS | {"d_model": 16, "max_position_embeddings": 64}
PAIR |= {"encoder_layers": 2, "decoder_layers": 2}
PAIR |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
PAIR |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
T5 = VOCABULARY | {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0}

PEFT = "peft-internal-testing/tiny-random-"
TRL, HF = "trl-internal-testing/tiny-", "hf-internal-testing/tiny-random-"
ROWS = "ForSequenceClassification"
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"{PEFT}OPTForCausalLM": ("OPTForCausalLM", "OPT", OPT),
    f"{PEFT}GPT2LMHeadModel": ("GPT2LMHeadModel", "GPT2", GPT),
    f"{PEFT}GPTJForCausalLM": ("GPTJForCausalLM", "GPTJ", GPT | {"rotary_dim": 4}),
    f"{TRL}random-LlamaForCausalLM": ("LlamaForCausalLM", "Llama", GROUPED),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2ForCausalLM", "Qwen2", GROUPED),
    f"{HF}Gemma3ForCausalLM": ("Gemma3ForCausalLM", "Gemma3Text", GROUPED | {"head_dim": 4}),
    f"{PEFT}T5ForConditionalGeneration-calibrated": ("T5ForConditionalGeneration", "T5", T5),
    f"{PEFT}BartForConditionalGeneration": ("BartForConditionalGeneration", "Bart", PAIR),
    f"{PEFT}BertModel": ("BertModel", "Bert", FORWARD),
    f"{PEFT}RobertaModel": ("RobertaModel", "Roberta", FORWARD),
    f"{PEFT}DebertaModel": ("DebertaModel", "Deberta", FORWARD),
    f"{PEFT}DebertaV2Model": ("DebertaV2Model", "DebertaV2", FORWARD),
    f"{PEFT}Bert{ROWS}": (f"Bert{ROWS}", "Bert", FORWARD),
    f"{PEFT}Roberta{ROWS}": (f"Roberta{ROWS}", "Roberta", FORWARD),
    f"{TRL}Llama{ROWS}-3.2": (f"Llama{ROWS}", "Llama", GROUPED),
}
"""Name on the hub: the class of the model, the name of its configuration, and its size."""


def save_models(folder: Path) -> None:
    """Write the models that the folder does not have yet."""
    for number, (name, (model, config, size)) in enumerate(MODELS.items()):
        if not (folder / name / "config.json").exists():
            torch.manual_seed(number)
            made = getattr(transformers, model)(getattr(transformers, f"{config}Config")(**size))
            made.save_pretrained(folder / name)
