"""`dcnlab kernels check`: what it prints and returns for .cu and .py files, right and wrong ones."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dcnlab import cli
from dcnlab.launch import KernelFault, forced, kernels_folder, module

pytestmark = pytest.mark.usefixtures("compiler")

README = (kernels_folder() / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def check(tmp_path, monkeypatch, capfd):
    """Write a file and check it in its folder; return status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(name, text, *options):
        (tmp_path / name).write_text(text)
        status = cli.main(["kernels", "check", name, *options])
        out, err = capfd.readouterr()
        return status, out, err

    return run


# ---- the pages that teach it


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_readme_example_does_what_the_readme_says(check):
    (source,) = blocks("cuda")
    clean, faulty = blocks("console")
    command, _, expected = clean.partition("\n")
    assert command == "$ dcnlab kernels check saxpy.cu"
    assert check("saxpy.cu", source) == (0, expected, "")
    assert source.count("if (i < n) ") == 1
    command, _, expected = faulty.partition("\n")
    assert command == "$ dcnlab kernels check saxpy.cu --mode check"
    status, out, err = check("saxpy.cu", source.replace("if (i < n) ", ""), "--mode", "check")
    # Which of x[i] and y[i] is read first is the compiler's choice; the README shows what g++ does.
    assert (status, out.replace("of x[", "of y["), err) == (1, expected, "")


def test_the_readme_script_runs_and_is_clean(check, tmp_path):
    (tmp_path / "saxpy.cu").write_text(blocks("cuda")[0])
    (script,) = blocks("python")
    status, out, err = check("saxpy.py", script)
    assert (status, out, err) == (0, "check  saxpy<float>: clean\nubsan  saxpy<float>: clean\n", "")
    subprocess.run([sys.executable, "saxpy.py"], cwd=tmp_path, check=True)


def test_a_kernel_of_the_library_with_run_lines(capsys):
    assert cli.main(["kernels", "check", "sampling/1_naive.cu"]) == 0
    assert capsys.readouterr().out.count("sample_bilinear<float, float>: clean (1 launch)") == 2


# ---- .cu files

FAULTS = r"""
// run: race<<<1, 32>>>(int[1])
__global__ void race(int* y) { y[0] += 1; }
// run: overflow<<<1, 1>>>(int[1], 2147483647)
__global__ void overflow(int* y, int n) { y[0] = n + 1; }
// run: past<<<1, 1>>>(y=int[3], n=2)
// run: past<<<1, 1>>>(y=int[3], n=3)
__global__ void past(int* y, int n) { y[n] = n; }
// run: dynamic<<<1, dim3(8, 2), 64>>>(float[16])
__global__ void dynamic(float* y) {
    extern __shared__ float memory[];
    int i = threadIdx.y * 8 + threadIdx.x;
    memory[i] = y[i];
    __syncthreads();
    y[i] = memory[15 - i];
}
"""


def test_each_mode_finds_its_own_faults(check):
    status, out, err = check("faults.cu", FAULTS)
    assert (status, err) == (1, "")
    found = dict(re.findall(r"^(\w+  \w+): (.*)$", out, re.MULTILINE))
    assert len(found) == len(out.splitlines()) == 8
    where = "block (0, 0, 0), thread (0, 0, 0)"
    assert found["check  race"].startswith("data race at faults.cu:3, block (0, 0, 0), thread (1, 0, 0): ")
    assert found["ubsan  race"] == "clean (1 launch)"
    assert found["check  overflow"] == "clean (1 launch)"
    assert found["ubsan  overflow"] == (
        f"undefined behaviour at faults.cu:5, {where}: signed integer overflow in an addition (run line faults.cu:4)"
    )
    assert found["check  past"] == (
        f"out of bounds at faults.cu:8, {where}: write of 4 bytes of y[3], which has 3 elements (run line faults.cu:7)"
    )
    assert found["ubsan  past"] == "did not run, for it leaves its memory (--mode ubsan runs it all the same)"
    assert found["check  dynamic"] == found["ubsan  dynamic"] == "clean (1 launch)"


def test_a_write_past_the_end_in_ubsan_mode_hits_a_fence(compiler):
    source = 'extern "C" __global__ void past(int* y) { y[4 + threadIdx.x] = 7; }'
    room = np.zeros(64, np.int32)
    module(source, target="cpu", mode="ubsan")["past"][1, 32](room[:4])
    assert not room.any()


def test_a_file_without_run_lines_is_compiled_and_told_how_to_go_on(check):
    source = "template <typename T>\n__global__ void twice(const T* x, T* y, int n, float a) { y[0] = a * x[n - 1]; }\n"
    status, out, err = check("twice.cu", source)
    assert status == 2
    assert out == "check  twice<float>: compiles, did not run\nubsan  twice<float>: compiles, did not run\n"
    line = "// run: twice<float><<<4, 128>>>(x=float[512], y=float[512]=zeros, n=512, a=2.0f)"
    assert err == f"twice.cu: twice did not run; say how to launch it in a comment such as  {line}\n"
    status, out, err = check("twice.cu", f"{line}\n{source}", "--mode", "check")
    assert status == 1, "the line that was proposed is one that works: many threads write y[0]"
    assert "check  twice<float>: data race at twice.cu:3" in out


def test_a_kernel_without_a_run_line_beside_one_that_has_one(check):
    source = "struct S { int a; };\n// run: f<<<1, 1>>>(int[1])\n__global__ void f(int* y) { y[0] = 1; }\n"
    status, out, err = check("two.cu", source + "__global__ void g(S s, int* y) { y[0] = s.a; }\n", "--mode", "check")
    assert (status, out) == (0, "check  f: clean (1 launch)\ncheck  g: compiles, did not run\n")
    assert err == "two.cu: g did not run; it takes a struct by value: launch it from a .py file and check that\n"


def test_a_file_that_does_not_compile(check):
    status, out, err = check("typo.cu", "\n__global__ void f(int* y) { z[0] = 1; }\n", "--mode", "check")
    assert (status, err.count("\n")) == (1, 1)
    assert re.fullmatch(r"check  typo.cu does not compile: typo.cu:2: .*z.*\n", out)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "FILE must be a .cu or a .py file, got 'a.txt'"),
        ("a.cu", "int f();", "a.cu has no __global__ function"),
        ("a.cu", "// run: g<<<1, 1>>>()\n__global__ void f() {}", "a.cu:1: there is no kernel 'g', only f"),
        (
            "a.cu",
            "\n// run: f<<<1>>>()\n__global__ void f() {}",
            "a.cu:2: a run line reads  // run: name<<<grid",
        ),
    ],
)
def test_bad_usage_is_one_line_and_exits_2(check, name, text, message):
    status, out, err = check(name, text)
    assert (status, out) == (2, "")
    assert err.startswith(f"dcnlab kernels: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["missing.cu", "missing.py"])
def test_a_file_that_is_not_there(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["kernels", "check", name]) == 2
    err = capsys.readouterr().err
    assert name in err
    assert err.count("\n") == 1


def test_without_a_compiler(check, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, _, err = check("a.cu", "__global__ void f() {}")
    assert status == 2
    assert err.startswith("dcnlab kernels: CXX='no-such-compiler' names no program")


# ---- .py files

SCRIPT = """
import numpy as np
from dcnlab.launch import KernelFault, module
source = 'extern "C" __global__ void twice(float* x, int n) {{ int i = threadIdx.x; if (i {} N) x[i] *= 2; }}'
x = np.arange(4, dtype=np.float32)
kernel = module(source, target="cuda", defines={{"N": "n"}}, options=["--use_fast_math"])["twice"]
{}
"""
LAUNCH = "kernel[1, 32](x, 4)"


def test_a_script_for_a_gpu_is_checked_on_the_cpu(check):
    program = SCRIPT.format("<", f"{LAUNCH}\nprint(x, __name__, __import__('sys').argv)")
    status, out, err = check("script.py", program, "--mode", "ubsan")
    assert (status, err) == (0, "")
    assert out == "[0. 2. 4. 6.] __main__ ['script.py']\nubsan  twice: clean\n"


def test_the_fault_of_a_script(check):
    status, out, err = check("script.py", SCRIPT.format("<=", LAUNCH))
    where = "out of bounds at kernel.cu:1, block (0, 0, 0), thread (4, 0, 0)"
    assert (status, err) == (1, "")
    # Of `x[i] *= 2` g++ shows the read, clang the write.
    assert out.replace("write", "read") == f"check  twice: {where}: read of 4 bytes of x[4], which has 4 elements\n"


@pytest.mark.parametrize(
    "launch",
    [
        "try:\n    {}\nexcept KernelFault:\n    pass",
        "import threading\nthread = threading.Thread(target=lambda: {})\n"
        "threading.excepthook = lambda args: None\nthread.start()\nthread.join()",
    ],
    ids=["caught", "in a thread"],
)
def test_a_fault_that_the_script_hides(check, launch):
    status, out, _ = check("script.py", SCRIPT.format("<=", launch.format(LAUNCH)), "--mode", "check")
    assert status == 1
    assert "check  twice: out of bounds" in out


def test_the_exception_of_a_script_is_a_normal_traceback(check):
    status, out, err = check("script.py", SCRIPT.format("<", f"{LAUNCH}\nx.nothing()"), "--mode", "check")
    assert (status, out) == (1, "")
    assert err.startswith('Traceback (most recent call last):\n  File "script.py", line 8, in <module>\n')
    assert err.endswith("AttributeError: 'numpy.ndarray' object has no attribute 'nothing'\n")
    assert "runpy" not in err


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        ("x = (", 1, "SyntaxError: '(' was never closed"),
        ("pass", 2, "no kernel was launched, nothing was checked"),
        ("raise SystemExit('no input')", 1, "no input"),
        ("raise SystemExit(0)", 2, "no kernel was launched"),
        ("from dcnlab.launch import module\nmodule('__global__ void f() { x }', target='cpu')", 1, ""),
    ],
)
def test_how_scripts_end(check, program, status, said):
    found, out, err = check("script.py", program, "--mode", "check")
    assert found == status
    assert said in err
    assert ("does not compile" in out) == (said == "")


def test_a_script_finds_its_neighbours_and_leaves_nothing_behind(check, tmp_path):
    (tmp_path / "neighbour.py").write_text(SCRIPT.format("<", ""))
    path = sys.path[:]
    status, out, _ = check("script.py", "from neighbour import kernel, x\nkernel[1, 32](x, 4)\n")
    assert (status, out) == (0, "check  twice: clean\nubsan  twice: clean\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["neighbour.py", "script.py"]
    assert sys.path == path


def test_a_script_that_crashes_its_process(check):
    status, out, _ = check("script.py", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert (status, out) == (1, "check  script.py: the process crashed (SIGKILL)\n")


# ---- forced, interrupted


def test_forced_holds_in_every_thread_and_ends(compiler):
    source = 'extern "C" __global__ void past(int* y) { y[threadIdx.x] = 1; }'
    faults = []

    def work():
        try:
            module(source, mode="fast")["past"][1, 8](np.zeros(7, np.int32))
        except KernelFault as fault:
            faults.append(fault)

    with forced("cpu", "check") as force:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        with forced("cpu", "ubsan") as inner:
            work()
    assert [fault.index for fault in faults] == [7]
    assert force.faults == faults
    assert list(force.launched) == list(inner.launched) == ["past"]
    assert not inner.faults
    assert module(source, target="cpu").target == "cpu"
    with pytest.raises(ValueError, match="mode='check' is for target='cpu'"):
        module(source, mode="check")


@pytest.mark.parametrize("kind", ["cu", "py"])
def test_ctrl_c_ends_a_kernel_that_hangs(tmp_path, kind):
    spin = "// run: spin<<<1, 1>>>(int[1]=zeros)\n__global__ void spin(volatile int* flag) { while (!flag[0]) {} }\n"
    (tmp_path / "spin.cu").write_text(spin)
    (tmp_path / "spin.py").write_text(
        "import numpy as np\nfrom dcnlab.launch import module\n"
        "kernel = module('spin.cu')['spin']\nprint('go', flush=True)\nkernel[1, 1](np.zeros(1, np.int32))\n"
    )
    module(tmp_path / "spin.cu", target="cpu", mode="ubsan")  # so that the process need not compile it
    command = [sys.executable, "-m", "dcnlab", "kernels", "check", f"spin.{kind}", "--mode", "ubsan"]
    # A suite that was started in the background ignores Ctrl-C, and its children would, too.
    hear = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **hear)
    try:
        if kind == "py":
            assert running.stdout.readline() == "go\n"
        wait_until_busy(running.pid)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert err == "interrupted while a kernel was running\n"


def wait_until_busy(pid):
    """Wait until a process has computed for longer than it needs to start."""
    ticks = os.sysconf("SC_CLK_TCK")
    for _ in range(600):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if int(fields[11]) / ticks > 1.5:
            return
        time.sleep(0.05)
    raise AssertionError("the kernel did not start")
