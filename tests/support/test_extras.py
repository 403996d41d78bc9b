"""What an import says of a library that is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from geolora_ref.support.extras import noting_how_to_install

IT_NEEDS = "it needs the extra: pip install 'geolora-ref[{}]'"


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("geolora_ref.nn", "torch", "torch"),
        ("geolora_ref.fast", "torch", "torch"),
        ("geolora_ref.nn.exchange.peft_tuner", "peft", "peft"),
    ],
)
def test_a_module_that_lacks_a_library_names_the_extra(module: str, library: str, extra: str) -> None:
    command = f"import sys; sys.modules[{library!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", command], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    error, note = done.stderr.splitlines()[-2:]
    assert error.startswith("ModuleNotFoundError: ")
    assert library in error
    assert note == IT_NEEDS.format(extra)


@pytest.mark.parametrize(("library", "notes"), [("torch.nn", [IT_NEEDS.format("torch")]), ("of_nobody", [])])
def test_of_an_unknown_library_nothing_is_said(library: str, notes: list[str]) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^not there") as caught, noting_how_to_install():
        raise ModuleNotFoundError("not there", name=library)
    assert getattr(caught.value, "__notes__", []) == notes
