"""Rules by which a scope leaves parts of the sources unmutated: each is true of the nodes that it
leaves out.
"""

from __future__ import annotations

import re

import libcst as cst
import libcst.matchers as m

from verification.trust.mutation_sources import Rule

__all__ = ["RULES"]


def prose(node: cst.CSTNode) -> bool:
    """A text with a space in it: titles, statements, captions and the names of inequalities are for
    readers.
    """
    return isinstance(node, cst.SimpleString) and " " in node.value


def pictures(node: cst.CSTNode) -> bool:
    """A function that draws on given axes: tests check that it draws, not how the picture looks."""
    return m.matches(
        node,
        m.FunctionDef(params=m.Parameters(params=[m.Param(name=m.Name("axes")), m.ZeroOrMore()])),
    )


def random_streams(node: cst.CSTNode) -> bool:
    """The seed of a generator: a claim holds for every stream of random numbers."""
    return m.matches(node, m.Call(func=m.Attribute(attr=m.Name("default_rng"))))


NUMBERS = re.compile(
    r"N|T|DRAWS|RANKS?|MAX_RANK|SHAPES?|SIZES|RATES|EPSILONS|SIGMA_MIN|(\w+_)?STEPS|STARTS|SPECTRUM"
)
"""The names that claims give to the numbers of their instances."""


def choice_of_instances(node: cst.CSTNode) -> bool:
    """Code that chooses the instances: cases of a plan, problems by name, random draws; a claim
    holds for every instance.
    """
    rng, others = m.Name("rng"), m.ZeroOrMore()
    planned = m.FunctionDef(
        params=m.Parameters(params=[others, m.Param(name=m.Name("plan")), others])
    )
    made = m.FunctionDef(name=m.Name("problem_of") | m.Name("make")) | m.Lambda(
        params=m.Parameters(params=[m.Param(name=rng)])
    )
    drawn = m.Call(args=[others, m.Arg(value=rng), others]) | m.Call(func=m.Attribute(value=rng))
    return m.matches(
        node, planned | made | drawn | m.Arg(keyword=m.Name("floor"))
    ) or _sets_numbers(node)


def _sets_numbers(node: cst.CSTNode) -> bool:
    """Return whether a statement defines nothing but numbers of instances."""
    if not isinstance(node, cst.Assign):
        return False
    names = [name for target in node.targets for name in m.findall(target, m.Name())]
    return all(isinstance(name, cst.Name) and NUMBERS.fullmatch(name.value) for name in names)


def assertions(node: cst.CSTNode) -> bool:
    """``assert`` and ``zip(strict=True)`` state what is true of our own data; without them right
    code does the same.
    """
    return isinstance(node, cst.Assert) or m.matches(node, m.Call(func=m.Name("zip")))


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (assertions, prose, pictures, random_streams, choice_of_instances)
}
