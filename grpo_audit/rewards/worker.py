"""The reward process: it loads one user function and calls it. Started by ``process.py``. It runs user code, so it is
trusted with nothing: it may hang, crash or be killed at any moment.

Light on purpose (standard library only), so that it starts in a fraction of a second and user code is all it holds.

Messages: the trainer sends pickled requests (``load``, then ``score`` as often as it likes); the answers are JSON, so
nothing that user code made is ever unpickled by the trainer.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any, Final, TypeVar

from grpo_audit.rewards.frames import ConnectionLost, receive, send
from grpo_audit.rewards.signature import LoadError, Option, bad_option, declarations, resolve_options, signature_of

T = TypeVar("T")
_MAX_MESSAGE: Final = 300


@dataclass(frozen=True)
class Function:
    """A loaded user function."""

    call: Callable[..., Any]
    file: Path
    digest: str
    accepted: list[str] | None
    """Names of its arguments; None when it takes any."""
    required: list[str]
    keyword_only: list[str]
    named: list[str]
    """Arguments it names, also where it takes any."""
    options: dict[str, Option]
    """Handed over with every call; defaults of the function included."""
    declared: dict[str, str]
    """What its module says of it: kind, version, domain."""
    facts: dict[str, str]
    """What its module found out when it was loaded, for the record."""
    modules: dict[str, str]
    """Other source files beside it that were loaded with it: name relative to its folder -> digest."""
    base_dir: str
    examples: Callable[..., Any] | None
    """Makes answers that are surely right or wrong; what its module has under ``EXAMPLES`` for it."""


_STAYS_HERE: Final = ("call", "examples")
"""What of a function is not told to the trainer."""


def main(fd: int) -> None:
    """Serve requests on an inherited socket until the trainer hangs up. Standard input is the trainer's lifeline."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle; it then closes the socket
    os.set_inheritable(fd, False)  # programs that user code starts must not keep the connection open
    connection = socket.socket(fileno=fd)
    _start_guard(connection)
    _redirect_streams()
    try:
        _serve(connection)
    except ConnectionLost:
        sys.exit(0)


def _start_guard(connection: socket.socket) -> None:
    """Fork a process that kills the whole process group as soon as the trainer is gone, however it went.

    A thread could not: user code that computes one huge power never lets another thread run. The kernel closes the
    trainer's end of our standard input when the trainer dies, even by SIGKILL.
    """
    if os.fork():
        return
    try:
        connection.close()  # or the trainer would never see that the reward process died
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(0)


def _redirect_streams() -> None:
    """User code reads nothing, and what it prints goes to standard error."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)


def _serve(connection: socket.socket) -> None:
    function: Function | None = None
    while True:
        request: dict[str, Any] = pickle.loads(receive(connection))
        if request["do"] == "load":
            try:
                function = load(request["source"], Path(request["base_dir"]), request["options"], request["expected"])
                answer = {name: value for name, value in vars(function).items() if name not in _STAYS_HERE}
                answer["has_examples"] = function.examples is not None
            except LoadError as error:
                answer = {"problem": error.args[0], "message": error.args[1]}
        else:
            assert function is not None, "score was asked for before load"
            answer = examples(function, request) if request["do"] == "examples" else score(function, request)
        _flush()
        send(connection, json.dumps(answer, default=str).encode())


def _flush() -> None:
    # User code may have replaced or closed the streams; what it printed is not worth a reward.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


# --- Loading ---------------------------------------------------------------------------------------------------------


def load(source: str, base_dir: Path, options: Mapping[str, Option], expected: Mapping[str, str]) -> Function:
    """Load ``package.module:function`` or ``file.py:function``.

    ``expected`` has the digests of files that were loaded before, by path. Raises LoadError; also when one of them has
    another digest now, because a process that starts again must not run other code than the record names.
    """
    for path, digest in expected.items():
        _checked_digest(Path(path), digest)
    before = set(sys.modules)
    name, _, attribute = source.rpartition(":")
    file = base_dir / name if name.endswith(".py") else None
    module = _load_module(name, base_dir) if file is None else _load_file(file, expected.get(str(file)))
    call = getattr(module, attribute, None)
    if call is None:
        known = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise LoadError("no such function", json.dumps(known))
    if not callable(call):
        raise LoadError("not callable", type(call).__name__)
    if file is None:
        file = _source_file(call, module)
    found = signature_of(call)
    chosen = resolve_options(call, options)
    names = getattr(inspect.unwrap(call), "__globals__", vars(module))
    facts = _on_load(call, names, chosen, base_dir)
    return Function(
        call=call,
        file=file,
        digest=_checked_digest(file, expected.get(str(file))),
        accepted=found.accepted,
        required=found.required,
        keyword_only=found.keyword_only,
        named=found.named,
        options=chosen,
        declared=declarations(call, names),
        facts=facts,
        modules=_modules_beside(file, set(sys.modules) - before),
        base_dir=str(base_dir),
        examples=_hook(call, names, "EXAMPLES"),
    )


def _hook(call: Callable[..., Any], names: Mapping[str, Any], name: str) -> Callable[..., Any] | None:
    """What the module has under this name, a mapping by function name, for this function."""
    hooks = names.get(name)
    return hooks.get(getattr(call, "__name__", "")) if isinstance(hooks, Mapping) else None


def _on_load(
    call: Callable[..., Any], names: Mapping[str, Any], options: Mapping[str, Option], base_dir: Path
) -> dict[str, str]:
    """Call what the module has under ``ON_LOAD`` for this function, with the options (and ``base_dir``) it names.

    It may refuse options by ValueError, and returns facts for the record, or None.
    """
    hook = _hook(call, names, "ON_LOAD")
    if hook is None:
        return {}
    given = {**options, "base_dir": str(base_dir)}
    wanted = signature_of(hook)
    for name in wanted.required:
        if name not in given:
            raise bad_option(f"needs the option {name!r}", next_step=f"Give it below options: {{{name}: VALUE}}")
    if wanted.accepted is not None:
        given = {name: value for name, value in given.items() if name in wanted.accepted}
    try:
        facts = hook(**given) or {}
    except ValueError as error:
        raise bad_option(describe(error).removeprefix("ValueError: ")) from error
    except BaseException as error:
        raise LoadError("failed to import", describe(error)) from error
    return {str(name): str(value) for name, value in dict(facts).items()}


def _modules_beside(file: Path, loaded: set[str]) -> dict[str, str]:
    """Source files in the folder of ``file`` or below that were loaded with it, and their digests. Modules that are
    imported later, in a call, are not among them."""
    found: dict[str, str] = {}
    root = file.resolve().parent
    for name in loaded:
        path = Path(getattr(sys.modules.get(name), "__file__", None) or "").resolve()
        if path.suffix != ".py" or path == file.resolve() or not path.is_relative_to(root) or not path.is_file():
            continue
        if "site-packages" not in path.relative_to(root).parts:  # an environment beside the recipe
            found[path.relative_to(root).as_posix()] = _checked_digest(path, None)
    return dict(sorted(found.items()))


def _digest_of(text: bytes) -> str:
    return "sha256:" + hashlib.sha256(text).hexdigest()


def _checked_digest(file: Path, expected: str | None) -> str:
    try:
        found = _digest_of(file.read_bytes())
    except OSError as error:
        raise LoadError("the source cannot be read", describe(error)) from error
    if expected is not None and found != expected:
        raise LoadError("the source changed since the run began", file.name)
    return found


def _load_file(path: Path, digest: str | None) -> ModuleType:
    if not path.is_file():
        raise LoadError("no such file", str(path))
    sys.path.insert(0, str(path.parent))  # modules beside the file can be imported, as when it is run
    taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names or not path.stem.isidentifier()
    name = f"reward_file_{path.stem}" if taken else path.stem
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up
    # The very bytes that are hashed are compiled: no .pyc, and nothing that is saved in between, stands for them.
    text = path.read_bytes()
    if digest is not None and _digest_of(text) != digest:
        raise LoadError("the source changed since the run began", path.name)
    _run(lambda: exec(compile(text, str(path), "exec"), vars(module)), str(path))
    return module


def _load_module(name: str, base_dir: Path) -> ModuleType:
    sys.path.append(str(base_dir))  # last: packages beside the recipe never hide installed ones
    return _run(lambda: importlib.import_module(name))


def _run(action: Callable[[], T], file: str = "") -> T:
    try:
        return action()
    except BaseException as error:  # user code may raise anything, SystemExit too
        raise LoadError("failed to import", describe(error, file)) from error


def _source_file(function: Callable[..., Any], module: ModuleType) -> Path:
    """The file the function is written in, which need not be the module it is named by."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = code.co_filename if code is not None else getattr(module, "__file__", None)
    if name is None or not name.endswith(".py") or not Path(name).is_file():
        raise LoadError("no source", module.__name__)
    return Path(name)


# --- Scoring ---------------------------------------------------------------------------------------------------------


def score(function: Function, request: dict[str, Any]) -> dict[str, Any]:
    """Call the function on all rows of the request.

    Returns ``values`` (float or None for each row) and ``errors`` (row -> message); or ``failure`` (message) when the
    call as a whole failed, so that no row can be told from another. With ``threads`` in the request: ``threads``, one
    such answer for each of so many threads that call the function at the same time.
    """
    if request.get("threads"):
        return {"threads": _in_threads(function, request)}
    given = {**request["columns"], "prompts": request["prompts"], "completions": request["completions"]}
    if function.accepted is not None:
        if "base_dir" in function.accepted:
            given.setdefault("base_dir", function.base_dir)
        given = {name: value for name, value in given.items() if name in function.accepted}
    try:
        result = function.call(**given, **function.options)
        if isinstance(result, str | bytes | dict) or not hasattr(result, "__len__"):
            return {"failure": f"returned a value of type {type(result).__name__}; expected a list of rewards"}
        rewards = list(result)
    except BaseException as error:  # noqa: BLE001 - user code may raise anything; it becomes the rows' error
        return {"failure": describe(error, str(function.file))}
    rows = len(request["completions"])
    if len(rewards) != rows:
        return {"failure": f"returned {len(rewards)} rewards for {rows} completion{'s' if rows != 1 else ''}"}
    return _checked(rewards)


def _in_threads(function: Function, request: dict[str, Any]) -> list[dict[str, Any]]:
    count = int(request["threads"])
    alone = {**request, "threads": 0}
    answers: list[dict[str, Any]] = [{"failure": "the thread did not end"}] * count
    together = threading.Barrier(count)

    def call(number: int) -> None:
        together.wait()
        answers[number] = score(function, alone)

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def examples(function: Function, request: dict[str, Any]) -> dict[str, Any]:
    """Call what the module has under ``EXAMPLES`` for this function, with the columns and options it names.

    Returns ``examples``, one item a row, as the module gave them; or ``failure``.
    """
    assert function.examples is not None, "examples were asked of a source without"
    given = {**request["columns"], **function.options, "prompts": request["prompts"], "base_dir": function.base_dir}
    wanted = signature_of(function.examples)
    if wanted.accepted is not None:
        given = {name: value for name, value in given.items() if name in wanted.accepted}
    try:
        found = list(function.examples(**given))
        json.dumps(found)
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        return {"failure": describe(error, str(function.file))}
    if len(found) != len(request["prompts"]):
        return {"failure": f"EXAMPLES gave {len(found)} items for {len(request['prompts'])} rows"}
    return {"examples": found}


def _checked(rewards: list[Any]) -> dict[str, Any]:
    values: list[float | None] = []
    errors: dict[str, str] = {}
    for index, reward in enumerate(rewards):
        if isinstance(reward, Exception):  # the function's own way to say that this row could not be judged
            values.append(None)
            errors[str(index)] = describe(reward).removeprefix("ValueError: ")
            continue
        try:
            values.append(None if reward is None else _number(reward))
        except ValueError as error:
            values.append(None)
            errors[str(index)] = str(error)
    return {"values": values, "errors": errors}


def _number(item: Any) -> float:
    """A float from a number, a truth value or a NumPy or torch scalar. Raises ValueError."""
    if not (hasattr(item, "__float__") or hasattr(item, "__index__")):
        raise ValueError(f"returned a value of type {type(item).__name__}; expected a number or None")
    try:
        value = float(item)
    except BaseException as error:  # noqa: BLE001 - __float__ is user code as well
        raise ValueError(
            f"returned a value of type {type(item).__name__} that is no number: {describe(error)}"
        ) from None
    if not math.isfinite(value):
        raise ValueError(f"returned {value}; expected a finite number or None")
    return value


def describe(error: BaseException, file: str = "") -> str:
    """``ValueError: message (rewards.py, line 12)`` on one line, shortened. The line is in ``file``."""
    try:
        message = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001 - even str() of a user's exception may fail
        message = "(its message cannot be shown)"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if len(text) > _MAX_MESSAGE:
        text = text[: _MAX_MESSAGE - 3] + "..."
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f"{text} ({Path(file).name}, line {lines[-1]})" if lines else text
