"""The statements of a module that the definition of one name needs."""

import ast
import symtable
from collections.abc import Iterator

_ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def needed_statements(tree: ast.Module, *names: str) -> list[ast.stmt]:
    r"""Return the top-level statements that the definitions of names need, in order.

    Args:
        tree: A parsed module.
        *names: Names that it defines.

    Example:
        >>> tree = ast.parse("import math\nimport os\nclass A:\n    x = math.pi\ntrain()")
        >>> [type(statement).__name__ for statement in needed_statements(tree, "A")]
        ['Import', 'ClassDef']
    """
    bound = [set() if _is_main_guard(statement) else set(_bound(statement)) for statement in tree.body]
    needed: set[int] = set()
    wanted, data = set(names), set[str]()
    while True:
        found = {
            index
            for index, statement in enumerate(tree.body)
            if bound[index] & wanted
            or "*" in bound[index]
            or _is_future(statement)
            or _changes(statement, wanted, data)
        } - needed
        if not found:
            return [tree.body[index] for index in sorted(needed)]
        needed |= found
        for index in found:
            wanted |= set(_used(tree.body[index]))
            if isinstance(tree.body[index], _ASSIGNMENTS):
                data |= bound[index]


def parameters_used(function: ast.FunctionDef | ast.AsyncFunctionDef, statements: list[ast.stmt]) -> list[str]:
    """Return the names of a function's parameters that some of its statements refer to.

    Args:
        function: The function.
        statements: Statements of its body.
    """
    given = function.args
    everything = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    names = [argument.arg for argument in everything if argument is not None]
    used = {name for statement in statements for name in _used(statement)}
    return [name for name in names if name in used]


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement, or one nested in it, assigns or defines; "*" for `from module import *`."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0]
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    if not isinstance(node, _SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)


def _root(node: ast.expr) -> Iterator[str]:
    """Yield the name at the left end of `name.attribute[item]`."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Name):
        yield node.id


def _changes(statement: ast.stmt, needed: set[str], data: set[str]) -> bool:
    """Tell whether a statement changes a needed object and does nothing else.

    Such statements are `name.attribute = …` and `name[item] = …`. Where the name is a plain variable, they are also
    `name.method(…)`, as in `parser.add_argument("--lr")`, and a definition decorated with `@name.method`. A method call
    whose arguments call something is excluded: `history.append(trainer.fit(…))` would train again.
    """
    if isinstance(statement, ast.Assign):
        roots = [_root(target) for target in statement.targets if isinstance(target, ast.Attribute | ast.Subscript)]
        return any(not needed.isdisjoint(root) for root in roots)
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return any(not data.isdisjoint(_root(decorator)) for decorator in statement.decorator_list)
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    calls = any(isinstance(node, ast.Call) for argument in arguments for node in ast.walk(argument))
    return not calls and not data.isdisjoint(_root(call.func))


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _used(statement: ast.stmt) -> Iterator[str]:
    """Yield the global names that a statement refers to; names that are local to its functions are left out."""
    table = symtable.symtable(ast.unparse(statement), "<statement>", "exec")
    yield from table.get_identifiers()
    pending = list(table.get_children())
    while pending:
        scope = pending.pop()
        pending += scope.get_children()
        for symbol in scope.get_symbols():
            # In a class body `x = x` reads the global.
            if symbol.is_global() or (scope.get_type() == "class" and symbol.is_referenced()):
                yield symbol.get_name()
