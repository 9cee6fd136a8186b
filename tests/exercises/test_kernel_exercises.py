"""What the checks of kernels say: faults with their line, wrong values with their reason, sources that misbehave."""

import importlib.util
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from bugs_exercises import BUGS
from compiler import require_compiler
from nvrtc import require_nvrtc

from dcnlab import exercises
from dcnlab.exercises import find_the_race, kernel_run
from dcnlab.exercises.function_check import close
from dcnlab.exercises.kernel_check import KernelCheck
from dcnlab.exercises.kernel_run import Result, Run, run
from dcnlab.launch import Traffic
from dcnlab.launch.sources import read_source

SOLUTIONS = Path(__file__).resolve().parents[2] / "notebooks" / "exercises" / "solutions"
CHECKS = {
    name: check for name in exercises.names() if isinstance(check := exercises.get(name).checker, KernelCheck)
} | {"find_the_race": find_the_race.REPAIRED}
SIMULATED = [name for name, check in CHECKS.items() if check.mistakes]
EACH_MISTAKE = [(name, mistake.name) for name in SIMULATED for mistake in CHECKS[name].mistakes]


@pytest.fixture
def compiler():
    require_compiler()


def solution(name):
    return runpy.run_path(str(SOLUTIONS / f"{exercises.get(name).file_name}.py"))["SOURCE"]


def edited(source, edits):
    for old, new in edits:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


# -- computed mistakes, without a compiler ---------------------------------------------------------------------------


def reported(name, *mistakes):
    """The report on a kernel that makes these mistakes, as float32, and nothing else."""
    check, results = CHECKS[name], []
    for case in check.cases():
        arrays = {k: v.astype(np.float32) for k, v in check.simulate(frozenset(mistakes), case.arguments).items()}
        traffic = {key: Traffic(0, 4, 0) for key, value in case.arguments.items() if isinstance(value, np.ndarray)}
        results.append(Result(arrays, traffic))
    return check.report("", Run(results))


@pytest.mark.parametrize("name", SIMULATED)
def test_without_a_mistake_the_simulation_is_right(name):
    check = CHECKS[name]
    for case in check.cases():
        expected = check.reference(case.arguments)
        for output, array in check.simulate(frozenset(), case.arguments).items():
            assert close(array, expected[output], 1e-12).all()
    assert reported(name).kind == "solved"


@pytest.mark.parametrize(("name", "mistake"), EACH_MISTAKE)
def test_each_mistake_is_told_from_the_others(name, mistake):
    report = reported(name, mistake)
    assert report.kind == "value"
    assert report.diagnosis == next(m.text for m in CHECKS[name].mistakes if m.name == mistake)


def test_two_mistakes_at_once():
    diagnosis = reported("first_kernel", "pair_swapped", "no_mask").diagnosis
    assert diagnosis.startswith("x and y are swapped in the offsets")
    assert "Also: The mask is not used" in diagnosis


# -- planted bugs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """The reports on all planted bugs of an exercise; they are compiled together, each with its own line numbers."""
    require_compiler()
    made = {}

    def reports(name):
        if name not in made:
            made[name] = examined(name, [key for key, bug in BUGS.items() if bug[0] == name])
        return made[name]

    return reports


def examined(name, keys):
    check, text, launches, sources = CHECKS[name], "", [], {}
    for number, key in enumerate(keys):
        sources[key] = edited(solution(name), BUGS[key][1])
        renamed = re.sub(rf"\b({check.kernel}|sample)\b", rf"\1_{number}", sources[key])
        text += f'#line 1 "kernel.cu"\n{renamed}\n'
        launches += check.launches(f"{check.kernel}_{number}")
    found = run(text, launches)
    assert not found.problem
    each = len(check.cases())
    return {
        key: (check.report(sources[key], Run(found.results[number * each : (number + 1) * each])), sources[key])
        for number, key in enumerate(keys)
    }


@pytest.mark.slow
@pytest.mark.parametrize("key", BUGS)
def test_a_planted_bug_is_found_where_it_is(planted, key):
    name, _, kind, marked, words = BUGS[key]
    report, source = planted(name)[key]
    assert not report.ok
    assert report.kind == kind, str(report)
    assert words in report.diagnosis, str(report)
    if marked is None:
        assert report.line == 0
    else:
        assert marked in source.split("\n")[report.line - 1], str(report)
        assert f"{kind} at line {report.line}, thread " in report.finding
        assert f"  >{report.line:3} | " in report.picture


@pytest.mark.slow
def test_a_wrong_tap_is_named(planted):
    finding = planted("first_kernel")["tap 7 left out"][0].finding
    assert "output pixel (1, 2), channel 0 (group 0), where only tap 7 counts" in finding
    assert "got 0 (2 of 20 entries differ)" in finding


@pytest.mark.slow
def test_what_is_not_written_is_named(planted):
    report = planted("first_kernel")["one channel of two"][0]
    assert "channel 1 (group 0), where only tap 0 counts" in report.finding
    assert "got NaN, which also stands where nothing was written" in report.finding


@pytest.mark.slow
def test_both_sides_of_a_race_are_named(planted):
    report = planted("find_the_race")["no barrier between two taps"][0]
    assert re.search(r"thread 1 of block 0: write of .*; read by thread 0 of block 0 at line 25", report.finding)
    assert report.picture.count("  >") == 2


@pytest.mark.slow
def test_bytes_are_compared_with_the_target(planted):
    report = planted("shared_taps")["the mask from global memory"][0]
    samples = 20 * 32 * 9  # of all threads in the first case
    assert f"but {4 * samples:,} bytes of mask are read; expected {4 * 20 * 9:,}" in report.finding
    assert re.search(r"mask +read +23,040  █+  target 720\n", report.picture)


# -- sources that misbehave ------------------------------------------------------------------------------------------


def test_what_the_compiler_says_has_the_students_line(compiler):
    source = edited(solution("first_kernel"), [("output[n] = sum;", "output[n] = sums;")])
    report = exercises.check("first_kernel", source)
    assert report.kind == "compile"
    assert "output[n] = sums;" in source.split("\n")[report.line - 1]
    assert report.finding.startswith(f"it does not compile; line {report.line}: ")
    assert "sums" in report.finding


def test_a_kernel_that_never_ends_is_ended(compiler, monkeypatch):
    monkeypatch.setattr(kernel_run, "LAUNCH_SECONDS", 1)
    source = edited(solution("first_kernel"), [("++k", "k += groups == 1")])  # ends in the first cases
    report = exercises.check("first_kernel", source)
    assert report.kind == "endless loop"
    assert report.case.startswith("3 of 4: ")
    assert report.finding == "the kernel was still running after 1 seconds"


def test_a_wrong_value_comes_before_an_endless_loop(compiler, monkeypatch):
    monkeypatch.setattr(kernel_run, "LAUNCH_SECONDS", 1)
    edits = [("++k", "k += groups == 1"), ("output[n] = sum;", "output[n] = 2 * sum;")]
    report = exercises.check("first_kernel", edited(solution("first_kernel"), edits))
    assert report.kind == "value"
    assert report.case.startswith("1 of 4: ")


def test_a_compiler_that_never_ends_is_ended(tmp_path, monkeypatch):
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && echo slow && exit\nsleep 600\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(kernel_run, "COMPILE_SECONDS", 1.5)
    report = exercises.check("first_kernel", solution("first_kernel"))
    assert report.kind == "compile"
    assert report.finding == "the compiler did not come to an end within 1.5 seconds"


def test_a_kernel_that_ends_its_process_gets_one_line(compiler):
    edits = [
        ("output[n] = sum;", "output[n] = sum; _exit(3);"),
        ('extern "C"', 'extern "C" void _exit(int);\nextern "C"'),
    ]
    report = exercises.check("first_kernel", edited(solution("first_kernel"), edits))
    assert report.kind == "crash"
    assert report.finding.startswith("the process that ran the kernel died (")
    assert report.case.startswith("1 of 4: ")


def test_what_a_kernel_prints_is_shown(compiler):
    edits = [("output[n] = sum;", 'output[n] = sum; printf("thread %d\\n", n);')]
    report = exercises.check("first_kernel", edited(solution("first_kernel"), edits))
    assert report.ok
    assert "  printed by the kernel\n    thread 0\n    thread 1\n" in report.picture
    assert report.picture.endswith("    thread 9\n    ...")


def test_other_names_for_the_arguments(compiler):
    source = re.sub(r"\boutput\b", "result", re.sub(r"\binput\b", "image", solution("first_kernel")))
    assert exercises.check("first_kernel", source).ok


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", r"expected a kernel __global__ void first_kernel\(...\), no template; there is none of that name"),
        ("template <int N> __global__ void first_kernel(int n) {}", "it is a template"),
        (
            "__global__ void first_kernel(const double* input) {}",
            r"must take \(const float\* input.*got \(const double\* input\)",
        ),
        ("// __global__ void first_kernel()", "there is none of that name"),
    ],
)
def test_a_source_of_something_else(source, words):
    report = exercises.check("first_kernel", source)
    assert report.kind == "call"
    assert re.search(words, report.finding)


@pytest.mark.parametrize("letter", ["\ud800", "\0", "é"])
def test_strange_letters_get_one_line(compiler, letter):
    report = exercises.check("first_kernel", edited(solution("first_kernel"), [("output[n] = sum;", letter)]))
    assert not report.ok
    assert report.kind in ("compile", "call", "stub")  # g++ skips a null character
    assert "\n" not in report.finding


def test_without_a_compiler_one_line_says_what_to_install(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in CHECKS:
        report = exercises.check(name, solution(name))
        assert report.kind == "no compiler"
        assert report.finding.endswith("pip install ziglang")
        assert "\n" not in report.finding


# -- exercise 11 -----------------------------------------------------------------------------------------------------

RACE, WRITE, READ, BARRIER = 20, 22, 25, 27


def test_the_lines_of_exercise_11_are_those_that_check_mode_names(compiler):
    repaired = find_the_race.KERNEL.replace(find_the_race.BLOCKS_RACE, "atomicAdd(&grad_input[i],").replace(
        "* g;", "* g);"
    )
    repaired = repaired.replace("part[c] = value * g);", "part[c] = value * g;")
    [barrier, *_] = run(repaired, CHECKS["find_the_race"].launches()).results
    assert (barrier.fault.at.line, barrier.fault.other.line) == (WRITE, READ)
    edits = [("= part[0];\n", "= part[0]; __syncthreads();\n")]
    [race, *_] = run(edited(find_the_race.KERNEL, edits), CHECKS["find_the_race"].launches()).results
    assert (race.fault.at.line, race.fault.other.line) == (RACE, RACE)
    assert race.fault.at.block != race.fault.other.block


def test_the_kernel_of_exercise_11_is_right_where_threads_take_turns(compiler, monkeypatch):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", "1")
    check = CHECKS["find_the_race"]
    found = run(find_the_race.KERNEL, check.launches(), mode="fast")
    for case, result in zip(check.cases(), found.results, strict=True):
        for name, expected in check.reference(case.arguments).items():
            assert close(result.arrays[name], expected, 1e-4).all()


@pytest.mark.parametrize("barrier", [WRITE, READ, BARRIER])
def test_lines_may_be_named(barrier):
    assert exercises.check("find_the_race", (RACE, barrier)).ok
    assert exercises.check("find_the_race", [barrier, RACE]).ok
    half = exercises.check("find_the_race", barrier)
    assert (half.kind, half.ok) == ("half", False)
    assert half.finding == "one is found; a race between blocks is still in it."


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (RACE, "half", "a missing barrier is still in it"),
        ((RACE, RACE), "half", "a missing barrier is still in it"),
        ((RACE, 24), "line", "line 24: no other thread writes"),
        ((0, RACE), "line", "lines 1 to 29"),
        (10**5000, "line", "lines 1 to 29"),
        (-1, "line", "lines 1 to 29"),
        ((), "call", "expected two line numbers"),
        (True, "call", "got an object of type bool"),
        ((RACE, "22"), "call", "got an object of type tuple"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lines_that_are_none_of_the_two(answer, kind, words):
    report = exercises.check("find_the_race", answer)
    assert report.kind == kind
    assert words in report.finding


# -- the solutions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKS)
def test_the_solutions_compile_for_a_gpu(name):
    needs = require_nvrtc().compile(read_source(solution(name)), [CHECKS[name].kernel], "sm_90")
    assert not needs[CHECKS[name].kernel].spills


def test_the_table_shows_what_shared_memory_saves(compiler):
    tables = [exercises.check(name, solution(name)).picture for name in ("first_kernel", "shared_taps")]
    before, after = (int(re.search(r"offset +read +([\d,]+)", table)[1].replace(",", "")) for table in tables)
    assert before == 4 * 2 * 9 * 20 * 24  # every thread, every tap
    assert after == 4 * 2 * 9 * 20 * 4  # every pixel and group
