"""The mutants of a source file: every small change that the operators of mutmut know, one at a time.

mutmut as a whole mutates neither decorated functions nor data outside of functions (a claim is such
data), and the names of its mutants change with every edit.  Therefore its operators are applied
here, and a mutant is known by file, function and diff; where a function has the same line several
times, also by the number of the occurrence.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import (
    mutation_operators,
    operator_arg_removal,
    operator_assignment,
    operator_string,
)

__all__ = ["Rule", "SourceMutant", "mutants_of"]

Rule = Callable[[cst.CSTNode], bool]
"""A function that decides whether a node, with everything in it, is left without mutants."""


@dataclass(frozen=True)
class SourceMutant:
    """One change: ``source`` from ``start`` to ``end`` (offsets in characters) becomes ``new``.

    ``occurrence`` : which place, counted from 1, where the function has the same line and the same change.
    """

    file: str
    function: str
    line: int
    source: str
    start: int
    end: int
    new: str
    occurrence: int = 1

    @property
    def mutated(self) -> str:
        """The text of the whole file after the change."""
        return self.source[: self.start] + self.new + self.source[self.end :]

    @cached_property
    def diff(self) -> str:
        """The lines before and after the change, without their indentation: ``old ⇒ new``."""
        first = self.source.rfind("\n", 0, self.start) + 1
        last = self.source.find("\n", self.end)
        before = self.source[first:last].split("\n")
        after = (self.source[first : self.start] + self.new + self.source[self.end : last]).split(
            "\n"
        )
        changes = [line for line in difflib.ndiff(before, after) if line[:2] in ("- ", "+ ")]
        old, new = (
            " ".join(line[2:].strip() for line in changes if line[0] == sign) for sign in "-+"
        )
        return f"{old} ⇒ {new}"

    @property
    def compiles(self) -> bool:
        """Return whether this is a program at all (slow; a few mutants are not)."""
        try:
            compile(self.mutated, "mutant", "exec", dont_inherit=True)
        except SyntaxError:
            return False
        return True

    @property
    def key(self) -> str:
        """The name that survives edits elsewhere; no two mutants of a file have the same."""
        twin = f" (occurrence {self.occurrence})" if self.occurrence > 1 else ""
        return f"{self.file}::{self.function}::{self.diff}{twin}"


NEVER: tuple[m.BaseMatcherNode, ...] = (
    m.Annotation(),
    m.Decorator(),
    m.ImportFrom(),
    m.Assign(targets=[m.AssignTarget(m.Name("__all__"))]),
    m.If(test=m.Name("TYPE_CHECKING")),
    m.Call(func=m.Name("len") | m.Name("isinstance")),
    m.Subscript(value=m.Name("Literal") | m.Name("Callable")),
)
"""Never mutated: what only readers and type checkers see and, as in mutmut, calls whose mutants
break at once.
"""


class _Collector(cst.CSTVisitor):
    """Walk through a module with the name of the function in hand, and note every change that an
    operator offers.
    """

    METADATA_DEPENDENCIES = (WhitespaceInclusivePositionProvider,)

    def __init__(self, file: str, source: str, rules: tuple[Rule, ...]) -> None:
        super().__init__()
        self.file, self.source, self.rules = file, source, rules
        self.offsets = [0]
        for line in source.splitlines(keepends=True):
            self.offsets.append(self.offsets[-1] + len(line))
        self.scope: list[str] = []
        self.found: list[SourceMutant] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.scope.append(node.name.value)
        if m.matches(node, m.OneOf(*NEVER)) or any(rule(node) for rule in self.rules):
            return False
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.found.extend(
                    self._mutant(node, changed) for changed in _offered(operator, node)
                )
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self.scope.pop()

    def _mutant(self, node: cst.CSTNode, changed: cst.CSTNode) -> SourceMutant:
        span = self.get_metadata(WhitespaceInclusivePositionProvider, node)
        start, end = (self.offsets[p.line - 1] + p.column for p in (span.start, span.end))
        new = cst.Module([]).code_for_node(changed)
        return SourceMutant(
            self.file,
            ".".join(self.scope) or "module",
            span.start.line,
            self.source,
            start,
            end,
            new,
        )


def _offered(
    operator: Callable[[cst.CSTNode], Iterable[cst.CSTNode]], node: cst.CSTNode
) -> Iterable[cst.CSTNode]:
    """The changes that an operator makes of a node, without those that any test would kill: easy
    kills prove nothing.

    No value that is assigned becomes None.  A positional argument becomes None but does not vanish,
    a keyword argument vanishes (so that its default acts) but does not become None.  A string is
    changed in one way, not in three.
    """
    if operator is operator_assignment:
        return []
    if operator is operator_string:
        assert isinstance(node, cst.BaseString)
        return list(operator_string(node))[:1]
    if operator is operator_arg_removal:
        assert isinstance(node, cst.Call)
        return [
            changed
            for changed in operator(node)
            if isinstance(changed, cst.Call) and _matters(node, changed)
        ]
    return operator(node)


def _matters(call: cst.Call, changed: cst.Call) -> bool:
    """Return whether a positional argument was replaced, or an argument with a keyword removed."""
    if len(call.args) == len(changed.args):
        return (
            next(
                old for old, new in zip(call.args, changed.args, strict=True) if old is not new
            ).keyword
            is None
        )
    return next(old for old in call.args if old not in changed.args).keyword is not None


def mutants_of(root: Path, file: str, rules: tuple[Rule, ...] = ()) -> list[SourceMutant]:
    """Every mutant of ``root / file`` that changes its text, in the order of the text.

    Nodes for which a rule is true are left alone.
    """
    source = (root / file).read_text(encoding="utf-8")
    collector = _Collector(file, source, rules)
    MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True).visit(collector)
    return _told_apart(mutant for mutant in collector.found if mutant.mutated != source)


def _told_apart(mutants: Iterable[SourceMutant]) -> list[SourceMutant]:
    """The same mutants; those that would have the same key are numbered."""
    found, seen = [], Counter[str]()
    for mutant in mutants:
        seen[mutant.key] += 1
        found.append(
            mutant if seen[mutant.key] == 1 else replace(mutant, occurrence=seen[mutant.key])
        )
    return found
