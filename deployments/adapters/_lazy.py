"""Modules put off: what a library imports at its top and no model here uses costs nothing until something uses it.

While :func:`put_off` lasts, an import of a module that it names finds a :class:`StandIn`. Of what is taken from that, a
:class:`Later` is given, which imports the real module when it is called, looked into or inherited from. Afterwards
imports find the real modules again.
"""

from __future__ import annotations

import functools
import gc
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
MARKS = ("allow_in_graph", "assume_constant_result", "disable")
"""Decorators of torch's compiler, whose package is this; they say how to compile a function and change nothing else."""


@contextmanager
def put_off(*names: str) -> Iterator[None]:
    """Within, importing the modules ``names``, and all inside them, runs no code of theirs until it is needed.

    A module that is there already stays as it is, and one that is not installed is missed as ever. No garbage is
    collected: of what an import makes nearly all stays, and to look through it again and again takes a tenth of it.
    """
    finder, collecting = _Finder(names), gc.isenabled()
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget("")
        if collecting:
            gc.enable()


class StandIn(ModuleType):
    """In the place of a module. It stays where it was imported to, its package included, but not in ``sys.modules``."""

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return _real(self.__name__).__all__
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        if self.__name__ == COMPILER and name in MARKS:
            return functools.partial(_marked, name)
        later = Later(self.__name__, name)
        setattr(self, name, later)
        return later


class Later:
    """What ``name`` is in ``module``, once it is needed."""

    __slots__ = ("_module", "_name")

    def __init__(self, module: str, name: str) -> None:
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_name", name)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return resolve(self)(*arguments, **more)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # typing and functools ask everything for these
            raise AttributeError(name)
        return getattr(resolve(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(resolve(self), name, value)

    def __getitem__(self, item: Any) -> Any:
        return resolve(self)[item]

    def __bool__(self) -> bool:
        return bool(resolve(self))

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (resolve(self),)

    def __instancecheck__(self, instance: object) -> bool:
        # Of a class whose module nobody has imported there are no instances.
        return _imported(self._module) and isinstance(instance, resolve(self))

    def __subclasscheck__(self, kind: type) -> bool:
        return _imported(self._module) and issubclass(kind, resolve(self))

    def __or__(self, other: Any) -> Any:
        return typing.Union[self, other]  # noqa: UP007

    def __ror__(self, other: Any) -> Any:
        return typing.Union[other, self]  # noqa: UP007


def resolve(later: Later) -> Any:
    """What ``later`` stands for, its module imported if it is not yet."""
    module = _real(later._module)
    try:
        return getattr(module, later._name)
    except AttributeError:  # a submodule that nothing has imported
        return import_module(f"{later._module}.{later._name}")


class _Finder(MetaPathFinder):
    """Finds stand-ins for ``names`` and their submodules."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = set(names)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not any(_within(name, known) for known in self.names):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Loader()
        return spec

    def give_up(self, name: str) -> None:
        """Put off no longer what ``name`` is within: it is needed now."""
        for known in [known for known in self.names if _within(name, known)]:
            self.names.discard(known)
            _forget(known)


class _Loader(Loader):
    """Makes stand-ins."""

    def create_module(self, spec: ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run."""


def _marked(mark: str, function: Callable[..., Any] | None = None, *arguments: Any, **more: Any) -> Any:
    """``function`` with that mark for the compiler, which is not set before there is a compiler to see it."""
    if function is None:
        return lambda given: _marked(mark, given, *arguments, **more)
    made: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        if not _imported(COMPILER):
            return function(*given, **named)
        if not made:
            made.append(getattr(sys.modules[COMPILER], mark)(function, *arguments, **more))
        return made[0](*given, **named)

    return call


def _real(name: str) -> Any:
    """The module, imported if it is not yet."""
    for finder in [finder for finder in sys.meta_path if isinstance(finder, _Finder)]:
        finder.give_up(name)
    return import_module(name)


def _imported(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not isinstance(module, StandIn)


def _forget(package: str) -> None:
    """Take the stand-ins within ``package``, or all of them, out of ``sys.modules``."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, StandIn) and (not package or _within(name, package)):
            del sys.modules[name]


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")
