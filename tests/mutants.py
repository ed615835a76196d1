"""The small changes of a module that `mutation.py` makes, one at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
FUNCTIONS = {"min": "max", "minimum": "maximum", "any": "all", "floor": "ceil", "argmin": "argmax"}
FUNCTIONS |= {new: old for old, new in FUNCTIONS.items()}
YES_OR_NO = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)  # the change of such is their negation
# what says something to readers and type checkers, and does nothing when tests run
SILENT = (ast.Import, ast.ImportFrom, ast.FormattedValue)
SILENT_FIELDS = ("annotation", "returns", "decorator_list", "type_params")


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        module: its path in the repository.
        lines: where the changed statement stands, without the statements inside it.
        before, after: the statement; of one with others inside, its first line.
        source: the whole module with the change.
    """

    module: str
    lines: tuple[int, ...]
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.module}:{self.lines[0]}: {self.before}\n    -> {self.after}"


def mutants_of(root: Path, module: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse((root / module).read_text(encoding="utf-8"))
    found: dict[str, Mutant] = {}
    for statement, parent, name, index, node in _places(tree, None):
        before = _shown(statement)
        for new in _changes(node):
            _put(parent, name, index, new)
            text = ast.unparse(tree)
            after = (
                f"pass  # {before}"
                if isinstance(new, ast.Pass)
                else _shown(new if statement is node else statement)
            )
            _put(parent, name, index, node)
            found.setdefault(text, Mutant(module, _lines(statement), before, after, text))
    return list(found.values())


Place = tuple[ast.stmt, ast.AST, str, int | None, ast.AST]  # statement, parent, its field, place in it, node


def _places(parent: ast.AST, statement: ast.stmt | None) -> Iterator[Place]:
    """Every node below `parent` that may change."""
    for name, value in ast.iter_fields(parent):
        if name in SILENT_FIELDS:
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or isinstance(node, SILENT):
                continue
            inside = node if isinstance(node, ast.stmt) else statement
            if inside is not None:
                yield inside, parent, name, index, node
            yield from _places(node, inside)


def _put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def _shown(statement: ast.AST) -> str:
    text = ast.unparse(statement)
    if not hasattr(statement, "body"):
        return text
    return next(line for line in text.splitlines() if not line.startswith("@"))


def _lines(statement: ast.stmt) -> tuple[int, ...]:
    """The lines of a statement; those of one with others inside end where they begin."""
    body = getattr(statement, "body", None)
    end = body[0].lineno if body else (statement.end_lineno or statement.lineno) + 1
    return tuple(range(statement.lineno, max(end, statement.lineno + 1)))


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a node."""
    match node:
        case ast.Compare():
            for place, operator in enumerate(node.ops):
                if type(operator) in OPERATORS:
                    ops = [*node.ops[:place], OPERATORS[type(operator)](), *node.ops[place + 1 :]]
                    yield _with(node, ops=ops)
        case ast.BinOp() | ast.BoolOp() if type(node.op) in OPERATORS:
            yield _with(node, op=OPERATORS[type(node.op)]())
        case ast.AugAssign():
            yield ast.Pass()
            if type(node.op) in OPERATORS:
                yield _with(node, op=OPERATORS[type(node.op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
        case ast.If() | ast.IfExp() | ast.While() if not _negated_elsewhere(node.test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Return(value=ast.expr()) if not _is_none(node.value):
            yield ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Expr(value=ast.Call()) | ast.Assert():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.Call():
            yield from _changed_calls(node)


def _changed_calls(node: ast.Call) -> Iterator[ast.AST]:
    """Without each of its keywords, and with the opposite function."""
    for place in range(len(node.keywords)):
        yield _with(node, keywords=[*node.keywords[:place], *node.keywords[place + 1 :]])
    match node.func:
        case ast.Name(id=name) if name in FUNCTIONS:
            yield _with(node, func=ast.Name(FUNCTIONS[name]))
        case ast.Attribute(attr=name) if name in FUNCTIONS:
            yield _with(node, func=_with(node.func, attr=FUNCTIONS[name]))


def _negated_elsewhere(test: ast.expr) -> bool:
    return isinstance(test, ast.UnaryOp) or (
        isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], YES_OR_NO)
    )


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new
