r"""
Export to PEFT
==============

When training is over, an adapter of adaptive rank is a plain LoRA adapter. PEFT loads the export
without this package.
"""

# %%
# A model of two linear layers, adapted and trained for a few steps on noise.
# :doc:`plot_6_fine_tune` trains a small network on digits, ``make finetune`` a sentence encoder;
# :doc:`/results` has what was measured there.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from geolora_ref.nn import GeoLoRA, adapt, adapters
from torch import nn


def network():
    """The base model; always the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 6))


model = network()
adapt(model, "all-linear", rank=3)
optimizer = GeoLoRA(model, lr=0.02, tau=0.05)
x, target = torch.randn(64, 12), torch.randn(64, 6)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), target).backward()
    optimizer.step()
print({name: layer.adapter.rank for name, layer in adapters(model).items()})

# %%
# :math:`W=USV^T` becomes LoRA's :math:`BA` with :math:`B=\alpha US`, :math:`A=V^T`, and zeros up to
# the largest rank: readers other than PEFT scale by one rank. With ``compact=True`` there are no
# zeros, and the ranks go into ``rank_pattern``, for PEFT alone.

try:
    import peft
    from geolora_ref.nn.exchange.export import export_lora
except ModuleNotFoundError as missing:
    print(f"skipped: {missing.name} is not installed (pip install 'geolora-ref[peft]')")
else:
    with tempfile.TemporaryDirectory() as folder:
        export_lora(model, folder)
        print(sorted(path.name for path in Path(folder).iterdir()))
        loaded = peft.PeftModel.from_pretrained(network(), folder)
        config = loaded.peft_config["default"]
        print("r:", config.r, "lora_alpha:", config.lora_alpha)
        with torch.no_grad():
            ours, theirs, before = model(x), loaded(x), network()(x)
        print("largest difference of the outputs:", float((ours - theirs).abs().max()))
        plt.plot(ours.ravel(), before.ravel(), ".", color="0.8", label="base model")
        plt.plot(ours.ravel(), theirs.ravel(), ".", label="loaded by PEFT")
        plt.xlabel("outputs of the trained model")
        plt.ylabel("outputs")
        plt.title("PEFT computes what the trained model computes")
        plt.legend()
        plt.show()
