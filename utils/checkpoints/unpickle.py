"""Read a pickle without making anything: what it would build becomes a tree of inert nodes.

`pickle.Unpickler` calls what a file tells it to call, and even a subclass of it with a list of allowed names
still sets attributes, hashes keys and grows its memo as the file wishes. A checkpoint needs about forty of
the opcodes, so this is a small interpreter of exactly those. A global is a label here, never looked up; a
call is a `Node` that remembers its label and arguments; nothing is imported, called or given an attribute.
"""

from __future__ import annotations

import pickletools
import re
import sys
from dataclasses import dataclass, field
from typing import Any

MAX_PICKLE_BYTES = 4 << 20  # the largest official model needs 0.4 MB, with the state of Adam 1 MB
MAX_INTEGER_BITS = 256  # states of random generators are 128 bits wide
MAX_KEY_BITS = 60  # of integers as keys; beyond, all of them may have one hash, and a dict becomes a list
MAX_GLOBAL = 200  # characters of a global's name
# bytes of memory for what a pickle builds: per byte of the pickle, and those that any file may take.
# An official file needs 14 a byte, counted as 34; a byte that makes an empty set would take 224
MEMORY_PER_BYTE, MEMORY_AT_LEAST = 48, 1 << 20
# what an entry of a container, of the stack or of the memo takes, growing included
ENTRY, PLACE = 120, 16
NO_ITEMS: dict[Any, Any] = {}  # of all nodes that were given none
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
SINGLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}

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


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle refers to, such as `torch.nn.modules.conv.Conv2d`. Only the text."""

    name: str


@dataclass(eq=False, slots=True)
class Node:
    """An object that the pickle wanted made: `name(*args)`, then given `state` and mapping `items`."""

    name: str
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=lambda: NO_ITEMS)


@dataclass(frozen=True, slots=True)
class Storage:
    """A flat array that lies beside the pickle: `kind` such as `HalfStorage`, `numel` elements."""

    kind: str
    key: str
    numel: int


def read_pickle(data: bytes) -> Any:
    """Interpret a pickle (protocol 2 to 5) as plain values, `Node`, `Global` and `Storage`.

    The result may share parts and may contain cycles, like the file; whoever walks it must bound the walk.
    It takes at most `MEMORY_PER_BYTE` times the memory of the pickle.

    Raises:
        RefusedError: a global or an opcode that is not allowed, a damaged or oversized pickle, or one that
            builds more than its size warrants.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise RefusedError(f"its pickle has {len(data)} bytes, more than the {MAX_PICKLE_BYTES} of any model")
    machine = _Machine(MEMORY_AT_LEAST + MEMORY_PER_BYTE * len(data))
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        if len(machine.stack) != 1 or machine.outer:
            raise RefusedError("damaged: its pickle ends in the middle of an object")
        return machine.stack[0]
    except RefusedError:
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise RefusedError(f"damaged: its pickle is not valid ({reason})") from error


class _Machine:
    """The pickle stack machine. `outer` holds the stacks below each open mark, `left` is memory in bytes."""

    def __init__(self, memory: int) -> None:
        self.left = memory
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Do what an opcode says: look up, remember, mark or change what is on the stack, or add to it."""
        match opcode:
            case "BINGET" | "LONG_BINGET":
                self.spend(PLACE)
                self.stack.append(self.memo[argument])
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.spend(ENTRY)
                self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
            case "MARK":
                self.spend(ENTRY)
                self.outer.append(self.stack)
                self.stack = []
            case "POP":
                self.pop()
            case "POP_MARK":
                self.pop_mark()
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.pop_mark())
            case "APPEND" | "APPENDS":
                values = [self.pop()] if opcode == "APPEND" else self.pop_mark()
                self.spend(PLACE * len(values))
                self.top(list).extend(values)
            case "ADDITEMS":
                values = self.pop_mark()
                self.spend(ENTRY * len(values))
                self.top(set).update(map(_key, values))
            case "BUILD":
                state, node = self.pop(), self.top(Node)
                if node.state is not None:
                    raise RefusedError(f"damaged: its pickle sets the state of a {node.name} twice")
                node.state = state
            case "PROTO":
                if not 2 <= argument <= 5:
                    raise RefusedError(f"its pickle has protocol {argument}; torch writes 2")
            case "FRAME" | "STOP":
                pass  # these only matter to a reader of streams
            case _:
                value = self.value(opcode, argument)
                self.spend(sys.getsizeof(value) + PLACE)
                self.stack.append(value)

    def value(self, opcode: str, argument: Any) -> Any:
        """The value that an opcode makes, of what is on the stack or of its own argument."""
        match opcode:
            case "REDUCE" | "NEWOBJ":
                arguments, function = self.pop(tuple), self.pop(Global)
                return Node(function.name, arguments)
            case "NEWOBJ_EX":
                if self.pop(dict):
                    raise RefusedError(
                        "its pickle makes an object with keyword arguments, which no checkpoint needs"
                    )
                return self.value("NEWOBJ", None)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                return EMPTY[opcode]()
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                return SINGLE[opcode]
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4":
                if argument.bit_length() > MAX_INTEGER_BITS:
                    raise RefusedError(f"holds an integer of {argument.bit_length()} bits")
                return argument
            case "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                return argument
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                return argument
            case "TUPLE":
                return tuple(self.pop_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [self.pop() for _ in range(int(opcode[-1]))]
                return tuple(reversed(values))
            case "FROZENSET":
                return frozenset(map(_key, self.pop_mark()))
            case "GLOBAL":
                module, _, name = argument.rpartition(" ")
                return _allowed(module, name)
            case "STACK_GLOBAL":
                name, module = self.pop(str), self.pop(str)
                return _allowed(module, name)
            case "BINPERSID":
                return _storage(self.pop(tuple))
        raise RefusedError(f"uses pickle opcode {opcode}, which no checkpoint needs")

    def spend(self, memory: int) -> None:
        """Count bytes that are about to be taken, or were just now."""
        self.left -= memory
        if self.left < 0:
            raise RefusedError("its pickle builds far more than its size warrants, which no checkpoint does")

    def pop(self, kind: type | None = None) -> Any:
        value = self.stack.pop()
        if kind is not None and type(value) is not kind:
            raise RefusedError(f"damaged: its pickle has {_kind(value)} where {kind.__name__} must be")
        return value

    def pop_mark(self) -> list[Any]:
        """Close the newest mark and return what was put on it."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def top(self, kind: type) -> Any:
        """The object that an opcode changes, still on the stack."""
        if type(self.stack[-1]) is not kind:
            found = _kind(self.stack[-1])
            raise RefusedError(f"damaged: its pickle changes {found} as if it were {kind.__name__}")
        return self.stack[-1]

    def set_items(self, values: list[Any]) -> None:
        """Put keys and values, in turn, into the dict or ordered dict on the stack."""
        if len(values) % 2:
            raise RefusedError("damaged: its pickle has a key without a value")
        top = self.stack[-1]
        ordered = isinstance(top, Node) and top.name == "collections.OrderedDict"
        self.spend(ENTRY * len(values) // 2)
        if ordered and top.items is NO_ITEMS:
            top.items = {}
        mapping = top.items if ordered else self.top(dict)
        for key, value in zip(values[::2], values[1::2]):
            mapping[_key(key)] = value


def _storage(reference: tuple[Any, ...]) -> Storage:
    """The reference that torch writes: ('storage', type, key, device, elements)."""
    match reference:
        case ("storage", Global(name=name), str(key), str(), int(numel)) if name.endswith("Storage"):
            return Storage(name.removeprefix("torch."), key, numel)
    raise RefusedError("damaged: its pickle refers to something that is no tensor storage")


def _key(value: Any) -> Any:
    """Only scalars may be hashed, and those whose hashes nobody can choose.

    The hash of a deeply nested tuple overflows the C stack.
    """
    if type(value) not in (str, int, float, bool, bytes, type(None)):
        raise RefusedError(f"its pickle uses {_kind(value)} as a key; checkpoints use names and numbers")
    if type(value) is int and value.bit_length() > MAX_KEY_BITS:
        raise RefusedError(f"its pickle uses an integer of {value.bit_length()} bits as a key")
    return value


def _allowed(module: str, name: str) -> Global:
    if len(module) + len(name) > MAX_GLOBAL or not ALLOWED_GLOBALS.fullmatch(f"{module} {name}"):
        wanted = f"{module}.{name}"
        shown = wanted if len(wanted) <= 120 else wanted[:120] + "…"
        raise RefusedError(
            f"refuses global {shown!a}: only tensors, plain values and YOLOv5 layers belong in a checkpoint, "
            "and nothing in it was run"
        )
    return Global(f"{module.replace('__builtin__', 'builtins')}.{name}")


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Node | Global) else f"a {type(value).__name__}"
