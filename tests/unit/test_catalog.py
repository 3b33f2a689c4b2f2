"""What a name means, and whether it may run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import EMBEDDED, entry
from tests.unit.test_store import install
from tollama.catalog import Catalog, Model, mending
from tollama.errors import LicenseNotAccepted, ModelNotFound, ModelNotInstalled, RunnerUnavailable
from tollama.store import Broken, Home, Manifest


@pytest.fixture
def models(tmp_path: Path) -> Catalog:
    return Catalog(Home(tmp_path))


def test_an_embedded_model_is_installed_and_runs(models: Catalog) -> None:
    model = models.runnable("Seasonal-Naive")
    assert (model.name, model.family, model.installed, model.embedded) == ("seasonal-naive", "baseline", True, True)
    assert models.find("seasonal-naive") is model


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("no-such-model", ModelNotFound),
        ("../etc/passwd", ModelNotFound),
        ("chronos-bolt-small", ModelNotInstalled),
        ("moirai-1.1-r-small", LicenseNotAccepted),
    ],
)
def test_what_may_not_run_says_why(models: Catalog, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        models.runnable(name)


def test_a_model_of_a_later_tollama_is_refused(models: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    later = entry("later", source=EMBEDDED, requires={"tollama": ">=99"})
    monkeypatch.setattr(models, "find", lambda name: Model("later", later, None))
    with pytest.raises(RunnerUnavailable, match="needs tollama >=99"):
        models.runnable("later")


def test_installed_lists_embedded_models_and_names_broken_ones(models: Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "models/spoilt"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    assert {"mock", "seasonal-naive"} <= {model.name for model in models.installed()}
    assert list(models.broken()) == ["spoilt"]


def test_one_that_is_removed_while_the_installed_are_listed(models: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    there = install(models.store)
    every = models.store.all

    def then_removed() -> list[Manifest | Broken]:
        found = every()
        models.store.remove(there.name)
        return found

    monkeypatch.setattr(models.store, "all", then_removed)
    assert there in [model.manifest for model in models.installed()]


def test_only_a_model_of_the_registry_is_mended_by_its_name() -> None:
    assert mending("chronos-2") == "tollama pull chronos-2"
    assert mending("mine").startswith("tollama rm mine, then ")
