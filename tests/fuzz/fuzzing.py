"""Fuzzing of readers: mutated files are read in a process with limits, and everything but a clear refusal is a finding.

A fuzzer is one test with three parts: seeds (small valid files), a target (a function of the test module that reads
one file), and a call of :func:`fuzz`:

    from fuzz.fuzzing import fuzz

    def read(path: Path) -> None:
        read_state_dict(path)

    @pytest.mark.slow
    def test_damaged_pth_files() -> None:
        report = fuzz(read, {"file.pth": saved({"a": torch.zeros(3)})})
        assert not report.findings, report

A case is one mutated file. It ends well if the target returns, or raises ``ValueError`` from a line of pkdzoo. Findings
are: a crash by a signal, a case that takes longer than ``hang`` seconds, a MemoryError (also as the cause of another
error), memory above ``memory`` bytes, and every other exception.

Environment variables:

    PKDZOO_FUZZ_SECONDS   time per fuzzer (default: 20)
    PKDZOO_FUZZ_SEED      seed of the mutations (default: 0); it is printed
    PKDZOO_FUZZ_KEEP      folder in which the files of findings are kept (default: a new temporary folder)

The files of findings are named by seed and number of the case. ``python tests/fuzz/fuzzing.py MODULE.py FUNCTION FILE``
reads one of them again, with its traceback. The limits need Linux.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import random
import re
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "pkdzoo"
KEPT_PER_KIND = 3  # files of findings that are kept, of each kind
MAX_FINDINGS = 50
NUMBERS = [0, 1, -1, 2, 127, 128, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = [b"NaN", b"Infinity", b"-1", b"1e999", b"1" + b"0" * 400, b"null", b"true", b"[]", b"{}", b"\x00", b"\\u0000"]

Mutation = Callable[[random.Random, bytes], bytes]


@dataclass
class Report:
    """What a fuzzer saw: number of cases, of refusals, of files that were read, and the findings."""

    seed: int
    cases: int = 0
    read: int = 0
    refused: int = 0
    problems: int = 0  # cases that are findings; of each kind, the first few are listed
    findings: list[str] = field(default_factory=list)
    peak: int = 0  # bytes, of the case that took most

    def __str__(self) -> str:
        lines = [f"{self.cases} cases with seed {self.seed}: {self.read} read, {self.refused} refused"]
        lines[0] += f", {self.problems} findings; at most {self.peak / 1e6:.0f} MB for one case"
        return "\n".join([*lines, *self.findings])


def fuzz(
    target: Callable[[Path], Any],
    seeds: Mapping[str, bytes],
    seconds: float | None = None,
    *,
    mutate: Mutation | None = None,
    memory: int = 256 << 20,
    hang: float = 10.0,
) -> Report:
    """Read mutated files for some time.

    Args:
        target: a function at the top of a test module; it reads the file at the path it is given.
        seeds: valid files by name; a mutated file keeps the name of its seed.
        seconds: time; None means ``PKDZOO_FUZZ_SECONDS``.
        mutate: a function at the top of the same module: a random generator and a file -> another file. It is used for
            half of the cases, e.g. to change a part inside a container with checksums.
        memory: bytes that a case may take.
        hang: seconds that a case may take.
    """
    seconds = float(os.environ.get("PKDZOO_FUZZ_SECONDS", "20")) if seconds is None else seconds
    report = Report(int(os.environ.get("PKDZOO_FUZZ_SEED", "0")))
    kept = Path(os.environ.get("PKDZOO_FUZZ_KEEP") or tempfile.mkdtemp(prefix="fuzz-"))
    kept.mkdir(parents=True, exist_ok=True)
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in seeds.items():
            (Path(folder) / "seeds").mkdir(exist_ok=True)
            (Path(folder) / "seeds" / name).write_bytes(content)
        settings = {
            "module": inspect.getsourcefile(target), "target": target.__name__,
            "mutate": mutate.__name__ if mutate else None, "folder": folder, "seed": report.seed, "memory": memory,
        }  # fmt: skip
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(report.findings) < MAX_FINDINGS:
            for case, problem in _run_worker(settings, report, end, hang):
                report.problems += 1
                kind = re.sub(r"[\d.]+|'[^']*'", "_", problem)[:100]
                kinds[kind] += 1
                if kinds[kind] <= KEPT_PER_KIND:
                    file = _keep(Path(folder), kept, report.seed, case, settings)
                    report.findings.append(f"case {case} ({file}): {problem}")
    print(f"{target.__name__}: {report}")
    return report


def _run_worker(settings: Mapping[str, Any], report: Report, end: float, hang: float) -> list[tuple[int, str]]:
    """Cases in one process until it dies, hangs or time is over; returns the findings."""
    command = [sys.executable, __file__, json.dumps({**settings, "first": report.cases})]
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
    findings: list[tuple[int, str]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None and process.stderr is not None
        lines, started, began = _lines(process, hang), False, False
        for line in lines:
            if line is None:  # nothing for too long
                findings.append((report.cases, f"hangs: more than {hang:.0f} s"))
                report.cases += 1
                break
            message = json.loads(line)
            if "ready" in message:
                started = True
                continue
            began = message["state"] == "begins"
            if not began:
                report.cases += 1
                report.peak = max(report.peak, message["peak"])
                report.read += message["state"] == "read"
                report.refused += message["state"] == "refused"
                if message["state"] == "finding":
                    findings.append((message["case"], message["problem"]))
                if time.monotonic() > end or len(findings) >= MAX_FINDINGS:
                    break
        else:  # the worker ended by itself
            code = process.wait()
            if not started:
                said = process.stderr.read().decode()[-4000:]
                raise RuntimeError(f"the fuzzer could not start, code {code}:\n{said}")
            if began:
                findings.append((report.cases, f"ends the process, code {code}"))
                report.cases += 1
        process.kill()
    return findings


def _lines(process: subprocess.Popen[bytes], hang: float) -> Any:
    """Lines of the worker; None if there is none for ``hang`` seconds (a minute for the first one)."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        buffer, wait = b"", 120.0
        while True:
            if not selector.select(wait):
                yield None
                return
            block = os.read(process.stdout.fileno(), 1 << 16)
            if not block:
                return
            *whole, buffer = (buffer + block).split(b"\n")
            yield from whole
            wait = hang


def _keep(folder: Path, kept: Path, seed: int, case: int, settings: Mapping[str, Any]) -> Path:
    """Make the file of a case again and keep it."""
    custom = _load(settings["module"], settings["mutate"]) if settings["mutate"] else None
    name, content = make_case(_seeds(folder), seed, case, custom)
    path = kept / f"{settings['target']}-{seed}-{case}-{name}"
    path.write_bytes(content)
    return path


# -- mutations -------------------------------------------------------------------------------------------------------


def make_case(seeds: Mapping[str, bytes], seed: int, case: int, custom: Mutation | None) -> tuple[str, bytes]:
    """Name and content of one case; it depends on the seeds, the seed and its number alone."""
    rng = random.Random(f"{seed} {case}")
    name = rng.choice(sorted(seeds))
    content = seeds[name]
    if custom is not None and rng.random() < 0.5:
        return name, custom(rng, content)
    return name, mutate_bytes(rng, content, list(seeds.values()))


def mutate_bytes(rng: random.Random, content: bytes, others: list[bytes] | None = None) -> bytes:
    """One to eight changes: bits, integers, runs of digits, words, and parts that go, double, move or are cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        rng.choice(_CHANGES)(rng, data, others or [content])
    return bytes(data)


def _flip(rng: random.Random, data: bytearray, others: list[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, others: list[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _integer(rng: random.Random, data: bytearray, others: list[bytes]) -> None:
    size, at = rng.choice((1, 2, 4, 8)), rng.randrange(len(data) + 1)
    value = rng.choice(NUMBERS) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _digits(rng: random.Random, data: bytearray, others: list[bytes]) -> None:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if found:
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice([*WORDS, *(str(number).encode() for number in NUMBERS)])


def _word(rng: random.Random, data: bytearray, others: list[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(WORDS)


def _delete(rng: random.Random, data: bytearray, others: list[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice((1, 4, 16, 256))]


def _double(rng: random.Random, data: bytearray, others: list[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.choice((1, 4, 16, 256))] * rng.choice((1, 2, 50, 1000))


def _splice(rng: random.Random, data: bytearray, others: list[bytes]) -> None:
    other = rng.choice(others)
    start = rng.randrange(len(other) + 1)
    at = rng.randrange(len(data) + 1)
    part = other[start : start + rng.choice((4, 16, 64, 1024))]
    data[at : at + rng.choice((0, len(part)))] = part


def _cut(rng: random.Random, data: bytearray, others: list[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


_CHANGES = [_flip, _flip, _byte, _byte, _integer, _integer, _digits, _digits, _word, _delete, _double, _splice, _cut]


# -- the process that reads ------------------------------------------------------------------------------------------


def _work(settings: Mapping[str, Any]) -> None:
    """Read one case after another and write a line before and after each."""
    target = _load(settings["module"], settings["target"])
    custom = _load(settings["module"], settings["mutate"]) if settings["mutate"] else None
    folder, seeds = Path(settings["folder"]), _seeds(Path(settings["folder"]))
    out, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # warnings of libraries would fill the pipe
    for name, content in seeds.items():  # imports and caches do not count as memory of a case
        (folder / name).write_bytes(content)
        target(folder / name)
    limit = _status("VmSize") + 4 * settings["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps({"ready": True}), file=out, flush=True)
    case = settings["first"]
    while True:
        name, content = make_case(seeds, settings["seed"], case, custom)
        (folder / name).write_bytes(content)
        print(json.dumps({"case": case, "state": "begins"}), file=out, flush=True)
        print(json.dumps({"case": case, **_read_case(target, folder / name, settings["memory"])}), file=out, flush=True)
        case += 1


def _read_case(target: Callable[[Path], Any], path: Path, memory: int) -> dict[str, Any]:
    """State, peak of memory and problem of one case."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, problem, state = _status("VmRSS"), "", "read"
    try:
        target(path)
    except Exception as error:
        state = "refused"
        problem = problem_of(error)
    peak = max(_status("VmHWM") - before, 0)
    if not problem and peak > memory:
        problem = f"takes {peak / 1e6:.0f} MB for a file of {path.stat().st_size} bytes"
    return {"state": "finding" if problem else state, "peak": peak, "problem": problem}


def problem_of(error: Exception) -> str:
    """Why an exception is no clear refusal; empty for a ValueError that a line of pkdzoo raised."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (MemoryError, RecursionError)) or "allocate memory" in str(cause):
            return f"{type(cause).__name__}: {cause}"[:300]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if type(error) is ValueError and str(error) and Path(frame.filename).is_relative_to(PACKAGE):
        return ""
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {error}"[:300]


def _status(field_name: str) -> int:
    """A number of ``/proc/self/status`` in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field_name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(field_name)


def _seeds(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "seeds").iterdir())}


def _load(module: str, name: str) -> Any:
    """A function at the top of a file."""
    if module not in _LOADED:
        spec = importlib.util.spec_from_file_location(f"fuzzed_{len(_LOADED)}", module)
        assert spec is not None and spec.loader is not None
        _LOADED[module] = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = _LOADED[module]
        spec.loader.exec_module(_LOADED[module])
    return getattr(_LOADED[module], name)


_LOADED: dict[str, Any] = {}


if __name__ == "__main__":
    if len(sys.argv) == 4:
        sys.path[:0] = [str(TESTS.parent), str(TESTS)]
        _load(sys.argv[1], sys.argv[2])(Path(sys.argv[3]))
    else:
        _work(json.loads(sys.argv[1]))
