"""Loading a model imports nothing that it does not use, and what is left out is there as soon as something uses it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.adapters import _lazy, _torch, _uni2ts
from deployments.adapters._lazy import Later, put_off
from tests.families.kinds import PULLED
from tests.families.test_adapters import SUBJECTS, TASK, waves
from tollama.families import families
from tollama.registry import find
from tollama.seam import Item, ModelRef, Task

PUT_OFF = {"torch": _torch.GRANITE, "timesfm": _torch.COMPILER, "uni2ts": _uni2ts.UNUSED}
WEIGHTY = {
    "torch": ("torch._inductor", "sklearn", "datasets"),
    "timesfm": ("sympy",),
    "uni2ts": ("torch._inductor", "torch.distributed.tensor"),
}
"""What would come along with those."""


@pytest.fixture(scope="module", params=PUT_OFF)
def report(request: pytest.FixtureRequest, inside: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    family = request.param
    names = [name for name in PULLED if find(name).family == family]
    builds, asked = [], []
    for name in names:
        entry = find(name)
        folder = str(tmp_path_factory.mktemp(name) / "snapshot")
        module, _, checkpoint = str(SUBJECTS[name].checkpoint).partition(":")
        builds.append((f"{module}:build", {"name": checkpoint, "folder": folder}))
        task = Task(TASK.horizon, TASK.quantiles, {key: o.default for key, o in entry.capabilities.options.items()})
        ref = ModelRef(name, family, entry.adapter, folder, "0" * 64, entry.capabilities)
        asked.append((families()[family].adapters[entry.adapter], ref, task))
    inside(family, *builds)
    item = Item("a", waves(120), "MS", 12)
    watched = (*PUT_OFF[family], *WEIGHTY[family])
    (found,), printed = inside(family, ("checks_imports:without", {"asked": asked, "item": item, "names": watched}))
    assert printed == ""
    return {**found, "family": family}


def test_no_model_needs_what_is_put_off(report: dict[str, Any]) -> None:
    assert report["there"] == []
    assert report["left"] == []


def test_what_is_put_off_is_there_by_that_name(report: dict[str, Any]) -> None:
    assert report["absent"] == []
    assert report["wrong"] == []
    assert bool(report["taken"]) == (report["family"] != "timesfm")


def test_the_numbers_are_the_same_with_it(report: dict[str, Any]) -> None:
    assert report["before"]
    for before, after in zip(report["before"], report["after"], strict=True):
        np.testing.assert_array_equal(before.mean, after.mean)
        np.testing.assert_array_equal(before.quantiles, after.quantiles)


# The machinery, on modules made here.

HEAVY = """
class Shape:
    def area(self): return 4
    class Error(Exception): pass
def double(number): return 2 * number
NOTHING = 0
"""
USER = """
import tollama_heavy.inner
from tollama_heavy import NOTHING, Shape, double, inner
import tollama_heavy as whole
def is_shape(value): return isinstance(value, Shape)
def four(): return whole.double(2) + double(0) + inner.one() - tollama_heavy.inner.one()
def annotated(one: Shape | None, other: "int | None" = None) -> None | Shape: return one
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package ``tollama_heavy`` and a module ``tollama_user`` that imports it, found by name and forgotten after."""
    (tmp_path / "tollama_heavy").mkdir()
    (tmp_path / "tollama_heavy/__init__.py").write_text(HEAVY)
    (tmp_path / "tollama_heavy/inner.py").write_text("def one(): return 1\n")
    (tmp_path / "tollama_user.py").write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("tollama_"):
            del sys.modules[name]


def user() -> Any:
    with put_off("tollama_heavy", "tollama_not_installed"):
        found = importlib.import_module("tollama_user")
    assert not any(name.startswith("tollama_heavy") for name in sys.modules)
    assert not any(isinstance(finder, _lazy._Finder) for finder in sys.meta_path)
    return found


def test_the_first_use_imports(library: Path) -> None:
    module = user()
    assert not module.is_shape(1)
    assert module.annotated(None) is None
    assert "tollama_heavy" not in sys.modules
    assert module.four() == 4
    heavy = importlib.import_module("tollama_heavy")
    assert module.is_shape(heavy.Shape())
    assert issubclass(heavy.Shape, module.Shape)
    assert not module.is_shape(1)
    assert not module.NOTHING
    assert module.Shape().area() == 4
    assert module.Shape.Error is heavy.Shape.Error


def test_a_base_class_is_the_real_one(library: Path) -> None:
    (library / "tollama_user.py").write_text("import tollama_heavy\nclass Square(tollama_heavy.Shape): pass\n")
    with put_off("tollama_heavy"):
        module = importlib.import_module("tollama_user")
        assert type(sys.modules["tollama_heavy"]) is type(sys)
    assert module.Square.__mro__[1] is sys.modules["tollama_heavy"].Shape


def test_what_is_there_already_stays_and_what_is_missing_is_missed(library: Path) -> None:
    heavy = importlib.import_module("tollama_heavy")
    with put_off("tollama_heavy", "tollama_not_installed"):
        assert importlib.import_module("tollama_user").whole is heavy
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("tollama_not_installed")
    assert sys.modules["tollama_heavy"] is heavy


def test_a_name_that_the_module_lacks_is_told_when_it_is_used(library: Path) -> None:
    (library / "tollama_user.py").write_text("from tollama_heavy import nowhere\n")
    with put_off("tollama_heavy"):
        module = importlib.import_module("tollama_user")
    assert isinstance(module.nowhere, Later)
    with pytest.raises(ModuleNotFoundError, match=r"tollama_heavy\.nowhere"):
        module.nowhere()


def test_marks_for_the_compiler_wait_for_it(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = "def disable(function, **more):\n    def marked(*given): return 'marked', more, function(*given)\n"
    (library / "tollama_heavy/__init__.py").write_text(marks + "    return marked\n")
    (library / "tollama_user.py").write_text(
        "import tollama_heavy\n"
        "@tollama_heavy.disable\ndef one(value): return value\n"
        "@tollama_heavy.disable(recursive=False)\ndef two(value): return value\n"
    )
    monkeypatch.setattr(_lazy, "COMPILER", "tollama_heavy")
    module = user()
    assert (module.one(1), module.two(2)) == (1, 2)
    importlib.import_module("tollama_heavy")
    assert (module.one(1), module.two(2)) == (("marked", {}, 1), ("marked", {"recursive": False}, 2))
