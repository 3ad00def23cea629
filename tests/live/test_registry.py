"""Providers are found by name, those of other packages too; a mistake is one clear sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from samvad.errors import SetupError
from samvad.live.providers.registry import ProviderOptions, make_provider, provider_names


@pytest.fixture
def foreign_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with two entry points of our group, one of them broken."""
    info = tmp_path / "parrot-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[samvad.live_providers]\nparrot = parrot_provider:make\nbroken = parrot_provider:nothing\n"
    )
    (tmp_path / "parrot_provider.py").write_text(
        "class Parrot:\n    name = 'parrot'\n"
        "    def __init__(self, options):\n        self.model = options.model\n"
        "def make(options):\n    return Parrot(options)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "parrot_provider", raising=False)


@pytest.mark.usefixtures("foreign_package")
def test_another_package_brings_one() -> None:
    """An entry point's factory is called with the options."""
    assert provider_names()[-2:] == ["broken", "parrot"]
    provider = make_provider("parrot", ProviderOptions(model="grey"))
    assert (provider.name, getattr(provider, "model", None)) == ("parrot", "grey")


@pytest.mark.usefixtures("foreign_package")
def test_a_broken_one_is_the_operators_mistake() -> None:
    """What cannot be loaded is named in one line."""
    with pytest.raises(SetupError, match=r"The live provider 'broken' cannot be loaded: .*nothing"):
        make_provider("broken")


def test_an_unknown_name_lists_the_known() -> None:
    """A misspelt provider is answered with what there is."""
    with pytest.raises(
        SetupError, match="no live provider 'vertx'; there are: extractive, vertex, gemini, openai,"
    ):
        make_provider("vertx")
