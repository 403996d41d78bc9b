"""Bases that bitsandbytes holds in codes of 8 or 4 bits: a tiny decoder trains, saves and reloads;
nothing is added to codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

peft = pytest.importorskip("peft", reason="the extra peft is not installed")
transformers = pytest.importorskip("transformers", reason="the extra peft is not installed")
pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

from geolora_ref.nn import GeoLoRA, adapters  # noqa: E402
from geolora_ref.nn.exchange.export import export_lora  # noqa: E402
from geolora_ref.nn.exchange.peft_tuner import GeoLoraConfig  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # of bitsandbytes, about what it does

CODES: dict[str, dict[str, Any]] = {
    "8 bits": {"load_in_8bit": True},
    "4 bits": {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32},
}
TOKENS = torch.randint(0, 64, (4, 12), generator=torch.Generator().manual_seed(0))


def decoder(folder: Path, codes: str) -> Any:
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    quantised = transformers.BitsAndBytesConfig(**CODES[codes])
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantised, device_map="cpu"
    )


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model.eval()(input_ids=TOKENS).logits
    return found


@pytest.mark.parametrize("codes", CODES)
def test_a_quantised_decoder_trains_and_reloads_to_the_same_logits(
    tmp_path: Path, codes: str
) -> None:
    base, saved, plain = (tmp_path / name for name in ("base", "adapter", "lora"))
    untrained = logits(decoder(base, codes))
    model = peft.get_peft_model(decoder(base, codes), GeoLoraConfig(task_type="CAUSAL_LM", rank=4))
    weights = [layer.base_weight for layer in adapters(model).values()]
    assert len(weights) == 14
    assert not any(weight.is_floating_point() for weight in weights)
    optimizer, losses = GeoLoRA(model, lr=0.1), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]
    trained = logits(model)
    assert not torch.allclose(trained, untrained, atol=1e-2)
    model.save_pretrained(saved)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(decoder(base, codes), saved)), trained)
    export_lora(model, plain)
    torch.testing.assert_close(
        logits(peft.PeftModel.from_pretrained(decoder(base, codes), plain)),
        trained,
        rtol=1e-3,
        atol=1e-3,
    )
    for refused in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(
            RuntimeError,
            match=r"merge: .* a tensor of its entries, found a (Int8Params|Params4bit) \(",
        ):
            refused()
    layer = next(iter(adapters(model).values()))
    with pytest.raises(
        RuntimeError, match="weight: expected numbers to add the update to, found codes"
    ):
        _ = layer.weight
    assert torch.equal(logits(model), trained)
