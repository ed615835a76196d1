"""Read a pickle without making anything: what it would build becomes a tree of inert nodes.

`pickle.Unpickler` calls what a file tells it to call, and even a subclass of it with a list of allowed names
still sets attributes, hashes keys and grows its memo as the file wishes. A checkpoint needs about forty of
the opcodes, so this is a small interpreter of exactly those. A global is a label here, never looked up; a
call is a `Node` that remembers its label and arguments; nothing is imported, called or given an attribute.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_PICKLE_BYTES = 16 << 20  # the largest official model needs 0.4 MB
MAX_INTEGER_BITS = 256  # states of random generators are 128 bits wide

# `module name` of everything that a YOLOv5 checkpoint names. All of it is inert; what is not needed for
# weights (devices, dates, paths) is here so that files that mention it can be read.
ALLOWED_GLOBALS = re.compile(
    r"""
      models\.(?:yolo|common|experimental)\ [A-Za-z_]\w*
    | torch\.nn\.modules\.\w+\ [A-Za-z_]\w*
    | torch\.nn\.parameter\ Parameter
    | torch\ (?:(?:Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage|Size|device)
    | torch\ (?:float64|float32|float16|bfloat16|int64|int32|int16|int8|uint8|bool)
    | torch\._utils\ _rebuild_(?:tensor|tensor_v2|parameter|parameter_with_state)
    | numpy\.(?:core|_core)\.multiarray\ (?:scalar|_reconstruct)
    | numpy\ (?:dtype|ndarray)
    | _codecs\ encode
    | collections\ OrderedDict
    | (?:builtins|__builtin__)\ (?:set|frozenset)
    | pathlib(?:\._local)?\ (?:Pure)?(?:Posix|Windows)?Path
    | argparse\ Namespace
    | datetime\ (?:datetime|date|time|timedelta|timezone)
    """,
    re.VERBOSE,
)


class RefusedError(ValueError):
    """The file is damaged or wants something that a checkpoint has no need of; the message says what."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to, such as `torch.nn.modules.conv.Conv2d`. Only the text."""

    name: str


@dataclass(eq=False)
class Node:
    """An object that the pickle wanted made: `name(*args)`, then given `state` and mapping `items`."""

    name: str
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """A flat array that lies beside the pickle: `kind` such as `HalfStorage`, `numel` elements."""

    kind: str
    key: str
    numel: int


def read_pickle(data: bytes) -> Any:
    """Interpret a pickle (protocol 2 to 5) as plain values, `Node`, `Global` and `Storage`.

    The result may share parts and may contain cycles, like the file; whoever walks it must bound the walk.

    Raises:
        RefusedError: a global or an opcode that is not allowed, or a damaged or oversized pickle.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise RefusedError(f"its pickle has {len(data)} bytes, more than the {MAX_PICKLE_BYTES} of any model")
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        if len(machine.stack) != 1 or machine.outer:
            raise RefusedError("damaged: its pickle ends in the middle of an object")
        return machine.stack[0]
    except RefusedError:
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise RefusedError(f"damaged: its pickle is not valid ({_short(error)})") from error


class _Machine:
    """The pickle stack machine. `outer` holds the stacks below each open mark."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            if type(argument) is int and argument.bit_length() > MAX_INTEGER_BITS:
                raise RefusedError(f"holds an integer of {argument.bit_length()} bits")
            self.stack.append(argument)
        elif name in _FRESH:
            self.stack.append(_FRESH[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise RefusedError(f"uses pickle opcode {name}, which no checkpoint needs")

    def pop(self, kind: type | None = None) -> Any:
        value = self.stack.pop()
        if kind is not None and type(value) is not kind:
            raise RefusedError(f"damaged: its pickle has {_kind(value)} where {kind.__name__} must be")
        return value

    def pop_mark(self) -> list[Any]:
        """Close the newest mark and return what was put on it."""
        values, self.stack = self.stack, self.outer.pop()
        return values


def _mark(machine: _Machine, _: Any) -> None:
    machine.outer.append(machine.stack)
    machine.stack = []


def _pop(machine: _Machine, _: Any) -> None:
    machine.pop()


def _pop_mark(machine: _Machine, _: Any) -> None:
    machine.pop_mark()


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


def _tuple(machine: _Machine, _: Any) -> None:
    values = machine.pop_mark()
    machine.stack.append(tuple(values))


def _short_tuple(size: int) -> Callable[[_Machine, Any], None]:
    def build(machine: _Machine, _: Any) -> None:
        values = [machine.pop() for _ in range(size)]
        machine.stack.append(tuple(reversed(values)))

    return build


def _append(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    _top(machine, list).append(value)


def _appends(machine: _Machine, _: Any) -> None:
    values = machine.pop_mark()
    _top(machine, list).extend(values)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    _mapping(machine)[_key(key)] = value


def _set_items(machine: _Machine, _: Any) -> None:
    values = machine.pop_mark()
    if len(values) % 2:
        raise RefusedError("damaged: its pickle has a key without a value")
    mapping = _mapping(machine)
    for key, value in zip(values[::2], values[1::2]):
        mapping[_key(key)] = value


def _add_items(machine: _Machine, _: Any) -> None:
    values = machine.pop_mark()
    _top(machine, set).update(map(_key, values))


def _frozenset(machine: _Machine, _: Any) -> None:
    values = machine.pop_mark()
    machine.stack.append(frozenset(map(_key, values)))


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.rpartition(" ")
    machine.stack.append(_allowed(module, name))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(str), machine.pop(str)
    machine.stack.append(_allowed(module, name))


def _call(machine: _Machine, _: Any) -> None:
    arguments, function = machine.pop(tuple), machine.pop(Global)
    machine.stack.append(Node(function.name, arguments))


def _call_with_keywords(machine: _Machine, _: Any) -> None:
    if machine.pop(dict):
        raise RefusedError("its pickle makes an object with keyword arguments, which no checkpoint needs")
    _call(machine, None)


def _build(machine: _Machine, _: Any) -> None:
    state = machine.pop()
    node = _top(machine, Node)
    if node.state is not None:
        raise RefusedError(f"damaged: its pickle sets the state of a {node.name} twice")
    node.state = state


def _persistent(machine: _Machine, _: Any) -> None:
    """Take the reference that torch writes: ('storage', type, key, device, elements)."""
    reference = machine.pop(tuple)
    match reference:
        case ("storage", Global(name=name), str(key), str(), int(numel)) if name.endswith("Storage"):
            machine.stack.append(Storage(name.removeprefix("torch."), key, numel))
        case _:
            raise RefusedError("damaged: its pickle refers to something that is no tensor storage")


def _protocol(_: _Machine, version: int) -> None:
    if not 2 <= version <= 5:
        raise RefusedError(f"its pickle has protocol {version}; torch writes 2")


def _nothing(_: _Machine, __: Any) -> None:
    """FRAME and STOP only matter to a reader of streams."""


def _top(machine: _Machine, kind: type) -> Any:
    """The object that the next opcode changes, still on the stack."""
    if type(machine.stack[-1]) is not kind:
        found = _kind(machine.stack[-1])
        raise RefusedError(f"damaged: its pickle changes {found} as if it were {kind.__name__}")
    return machine.stack[-1]


def _mapping(machine: _Machine) -> dict[Any, Any]:
    top = machine.stack[-1]
    if isinstance(top, Node) and top.name == "collections.OrderedDict":
        return top.items
    mapping: dict[Any, Any] = _top(machine, dict)
    return mapping


def _key(value: Any) -> Any:
    """Only scalars may be hashed: the hash of a deeply nested tuple overflows the C stack."""
    if type(value) not in (str, int, float, bool, bytes, type(None)):
        raise RefusedError(f"its pickle uses {_kind(value)} as a key; checkpoints use names and numbers")
    return value


def _allowed(module: str, name: str) -> Global:
    if not ALLOWED_GLOBALS.fullmatch(f"{module} {name}"):
        raise RefusedError(
            f"refuses global {_printable(f'{module}.{name}')}: only tensors, plain values and YOLOv5 layers "
            "belong in a checkpoint, and nothing in it was run"
        )
    return Global(f"{module.replace('__builtin__', 'builtins')}.{name}")


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Node | Global) else f"a {type(value).__name__}"


def _printable(text: str) -> str:
    return ascii(text if len(text) <= 120 else text[:120] + "…")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


_LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
    | {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _protocol,
    "FRAME": _nothing,
    "STOP": _nothing,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "TUPLE": _tuple,
    "TUPLE1": _short_tuple(1),
    "TUPLE2": _short_tuple(2),
    "TUPLE3": _short_tuple(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "ADDITEMS": _add_items,
    "FROZENSET": _frozenset,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "NEWOBJ_EX": _call_with_keywords,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
