"""The message of an import whose library is not installed."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from geolora_ref.support.extras import noting_how_to_install

IT_NEEDS = "it needs the extra: pip install 'geolora-ref[{}]'"


@pytest.mark.parametrize("module", ["geolora_ref.nn", "geolora_ref.fast"])
def test_a_module_that_lacks_a_library_names_the_extra(module: str) -> None:
    command = f"import sys; sys.modules['torch'] = None; import {module}"
    done = subprocess.run(
        [sys.executable, "-c", command], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    error, note = done.stderr.splitlines()[-2:]
    assert error.startswith("ModuleNotFoundError: ")
    assert "torch" in error
    assert note == IT_NEEDS.format("torch")


def test_the_adapter_of_peft_names_its_extra_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    import geolora_ref.nn.exchange  # what else the module needs is there

    monkeypatch.delitem(sys.modules, "geolora_ref.nn.exchange.peft_tuner", raising=False)
    monkeypatch.delattr(geolora_ref.nn.exchange, "peft_tuner", raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match="peft") as caught:
        importlib.import_module("geolora_ref.nn.exchange.peft_tuner")
    assert caught.value.__notes__ == [IT_NEEDS.format("peft")]


@pytest.mark.parametrize(
    ("library", "notes"), [("torch.nn", [IT_NEEDS.format("torch")]), ("of_nobody", [])]
)
def test_of_an_unknown_library_nothing_is_said(library: str, notes: list[str]) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^not there") as caught, noting_how_to_install():
        raise ModuleNotFoundError("not there", name=library)
    assert getattr(caught.value, "__notes__", []) == notes
