"""`dcnlab kernels list`, `compile` and `bench`, and the record that kernels/README.md shows."""

import json
from pathlib import Path

import numpy as np
import pytest
from compiler import require_compiler
from nvrtc import SPILLING, require_nvrtc

from dcnlab.bench import kernels as bench
from dcnlab.cli import main
from dcnlab.compiled import ladder, resources
from dcnlab.compiled.rung import Rung
from dcnlab.compiled.rungs import PREFERRED, RUNGS
from dcnlab.errors import BackendUnavailable
from dcnlab.launch import kernels_folder
from dcnlab.records import as_json, write_part

ROOT = Path(__file__).resolve().parent.parent
HOW = "run: dcnlab kernels compile --out docs/results/kernels.json, then bench --out, then python docs/refresh.py"


@pytest.fixture
def command(capsys):
    def run(*arguments):
        status = main(["kernels", *arguments])
        return status, *capsys.readouterr()

    return run


# ---- list


def test_every_rung_is_listed(command):
    status, out, err = command("list")
    assert (status, err) == (0, "")
    for rung in RUNGS.values():
        assert f"{rung.path}  (in use: {ladder.in_use(rung)})" in out
        assert ladder.header(kernels_folder() / rung.path).idea in out
    listed = {path.relative_to(kernels_folder()).as_posix() for path in kernels_folder().glob("*/*_*.cu")}
    assert listed == {rung.path for rung in RUNGS.values()}, "every .cu file is a rung"


def test_the_rungs_of_one_operator(command):
    status, out, _ = command("list", "gelu_forward")
    assert status == 0
    assert out == (
        "gelu_forward/1_run.cu  (in use: cpu, cuda)\n"
        "    one thread, a run of neighbouring elements.\n"
        "    gelu_forward_run<T, A, ...> of float32, float64, float16; cpu: 128; cuda: 1\n"
    )
    status, out, err = command("list", "nothing")
    assert (status, out) == (2, "")
    assert err.startswith("dcnlab kernels: operator must be one of sampling, ")
    assert err.endswith(", got 'nothing'\n")


def test_where_a_rung_is_in_use(monkeypatch):
    rung = RUNGS["dcnv3_forward", "2_point"]
    monkeypatch.setitem(PREFERRED, ("dcnv3_forward", "cuda"), ("2_point",))
    assert ladder.in_use(rung) == "cpu, cuda"
    monkeypatch.setitem(PREFERRED, ("dcnv3_forward", "cuda"), ("9_best", "2_point"))
    assert ladder.in_use(rung) == "cpu, cuda (2nd of 2)"
    assert ladder.in_use(RUNGS["sampling", "1_naive"]) == "none"


def test_instances_are_those_that_a_target_uses():
    rung = RUNGS["dcnv3_forward", "2_point"]
    assert ladder.instances(rung, "cuda", "float16") == ["dcnv3_forward_point<__half, float, 4, 1>"]
    widths = {f"dcnv3_forward_point<float, float, {width}, 8>" for width in (4, 8, 16)}
    assert set(ladder.instances(rung, "cpu", "float32")) == widths
    assert ladder.instances(rung, "cpu", "float64")[-1] == "dcnv3_forward_point<double, double, 8, 8>"
    chosen = Rung("x", "1_y", "y", dtypes=("float16",), choices=((9, 2), (9, 4)), choose=lambda problem: (9, 2))
    assert ladder.instances(chosen, "cuda") == ["y<__half, float, 9, 2>", "y<__half, float, 9, 4>"]


# ---- compile


@pytest.fixture
def nvrtc():
    return require_nvrtc()


def test_a_file_of_one_s_own(nvrtc, command, tmp_path):
    kernel = tmp_path / "mine.cu"
    kernel.write_text(
        "// run: mine<double><<<1, 32>>>(double[32], 1)\n"
        "template <typename T>\n__global__ void mine(T* x, int n) {\n"
        "    __shared__ T s[32];\n    s[threadIdx.x] = n;\n    x[0] = s[n];\n}\n"
        "template <typename T, int N>\n__global__ void other(T* x) { x[N] = 1; }\n"
    )
    status, out, err = command("compile", str(kernel), "--arch", "sm_80", "sm_90")
    assert (status, err) == (0, "")
    first, header, _, *rows = out.splitlines()
    assert first == "mine.cu"
    assert header.split()[:3] == ["instance", "registers", "shared"]
    assert rows[0].split()[0] == "mine<double>"
    assert rows[0].split()[2] == "256"
    assert any(row.strip().startswith("other<float, 4>") for row in rows)


def test_a_spill_and_an_error_are_exit_status_1(nvrtc, command, tmp_path):
    kernel = tmp_path / "mine.cu"
    kernel.write_text(SPILLING)
    status, out, _ = command("compile", str(kernel), "--arch", "sm_90")
    assert status == 1
    assert out.endswith("    crowded spills registers on sm_90\n")
    kernel.write_text("__global__ void mine(float* x) {\n  x[0] = y;\n}\n")
    status, out, _ = command("compile", str(kernel), "--arch", "sm_90")
    assert (status, out) == (
        1,
        'mine.cu\n    mine.cu does not compile for sm_90: mine.cu:2: identifier "y" is undefined\n',
    )


def test_the_rungs_of_an_operator_or_one_by_its_file(nvrtc, command):
    status, out, _ = command("compile", "gelu_forward", "--arch", "sm_90")
    assert status == 0
    for name in ladder.instances(RUNGS["gelu_forward", "1_run"], "cuda"):
        assert name in out
    assert command("compile", "gelu_forward/1_run.cu", "--arch", "sm_90") == (0, out, "")


def test_a_record_of_all_rungs(nvrtc, command, tmp_path, monkeypatch):
    path, few = tmp_path / "kernels.json", [RUNGS["gelu_forward", "1_run"], RUNGS["softmax_forward", "1_rows"]]
    monkeypatch.setattr(resources, "rungs_of", lambda operator: few)
    monkeypatch.setattr(resources, "ARCHITECTURES", ("sm_90",))
    path.write_text('{"measured": 1}')
    assert command("compile", "--out", str(path))[0] == 0
    record = json.loads(path.read_text())
    assert record["measured"] == 1, "other parts stay"
    assert record["compiled"]["nvrtc"] == nvrtc.version
    assert list(record["compiled"]["rungs"]) == [rung.path for rung in few]
    needs = record["compiled"]["rungs"]["gelu_forward/1_run.cu"]["gelu_forward_run<float, float, 1>"]["sm_90"]
    assert needs["registers"] > 0
    assert needs["spill_stores"] == 0


def test_bad_usage_is_exit_status_2(nvrtc, command, tmp_path):
    out = str(tmp_path / "kernels.json")
    cases = {
        ("compile", "nothing"): "operator must be one of sampling, ",
        ("compile", "nothing.cu"): "no kernel 'nothing.cu': neither in ",
        ("compile", "gelu_forward", "--arch", "sm_1"): "architecture must be one that NVRTC ",
        ("compile", "gelu_forward", "--out", out): "--out records all rungs on all architectures: leave out FILE",
        ("compile", "--arch", "sm_90", "--out", out): "--out records all rungs on all architectures: leave out FILE",
        ("bench", "nothing"): "operator must be one of sampling, ",
        ("bench", "sampling", "--out", out): "--out records all rungs: leave out OPERATOR",
    }
    for arguments, message in cases.items():
        status, _, err = command(*arguments)
        assert status == 2
        assert err.startswith(f"dcnlab kernels: {message}"), arguments
        assert err.count("\n") == 1
    (tmp_path / "empty.cu").write_text("int x;\n")
    assert command("compile", str(tmp_path / "empty.cu"))[2] == "dcnlab kernels: empty.cu has no __global__ function\n"
    assert not Path(out).exists()


def test_without_nvrtc(command, monkeypatch):
    def missing():
        raise BackendUnavailable("NVRTC is not installed")

    monkeypatch.setattr(resources, "find_nvrtc", missing)
    assert command("compile", "gelu_forward") == (2, "", "dcnlab kernels: NVRTC is not installed\n")


# ---- bench


@pytest.fixture
def compiler():
    require_compiler()


def test_bench_prints_what_it_counts(compiler, command):
    status, out, err = command("bench", "sampling", "--repeats", "1")
    assert (status, err) == (0, "")
    row = next(line.split() for line in out.splitlines() if line.startswith("sampling/1_naive"))
    assert row[2] == "float32"
    # A position: 2 ints and 2 floats for 16 channels; 16 values of the image and of the output.
    assert row[4] == "4.0"
    assert row[7] == f"{4 + 4 + (8 + 8) / 16:.1f}"
    assert "sampling: 28x28x16" in out


def test_bytes_of_dcnv3_by_hand(compiler):
    """Away from borders: 36 values of the image an output, and for each tap of whatever a thread covers 3 numbers."""
    example = bench.EXAMPLES["dcnv3_forward"]
    outputs, tables = 28 * 28 * 128, 27 * 4
    for idea, covered in (("1_naive", 1), ("2_point", 4)):
        rung = RUNGS["dcnv3_forward", idea]
        found = bench.counted(rung, example, "float32")
        by_name = {name: np.array(numbers) / outputs for name, numbers in found["arguments"].items()}
        assert by_name["offset"][0] + by_name["mask"][0] == pytest.approx(tables / covered)
        assert by_name["output"].tolist() == [0, 4, 0]
        assert 0.9 * 36 * 4 < by_name["input"][0] <= 36 * 4, "a little less at the borders"
        assert found["atomic"] == 0
        assert bench.asked(found) == pytest.approx(sum(by_name.values()).sum(), abs=0.02)
    # Input and output, and 27 numbers for each of 8 groups a pixel.
    assert found["floor"] == pytest.approx(4 * (2 + 8 * 27 / 128), abs=0.01)
    half = bench.counted(rung, example, "float16")
    assert half["floor"] == pytest.approx(found["floor"] / 2, abs=0.01)


def test_a_rung_that_does_not_take_the_example(compiler, monkeypatch, capsys):
    rung = RUNGS["gelu_forward", "1_run"]
    picky = Rung("gelu_forward", "1_run", rung.kernel, each=rung.each, dtypes=("float16",))
    for_gpus = Rung("gelu_forward", "1_run", rung.kernel, each=rung.each, fits=lambda p: p.target == "cuda")
    monkeypatch.setattr(bench, "rungs_of", lambda operator: [RUNGS["gelu_forward", "1_run"]])
    monkeypatch.setitem(RUNGS, ("gelu_forward", "1_run"), picky)
    row = bench.run("gelu_forward", 1)["rungs"][rung.path]
    assert list(row["bytes"]) == ["float16"]
    assert row["cpu_ms"] is None
    monkeypatch.setitem(RUNGS, ("gelu_forward", "1_run"), for_gpus)
    row = bench.run("gelu_forward", 1)["rungs"][rung.path]
    assert list(row["bytes"]) == ["float32", "float16"]
    assert row["cpu_ms"] is None
    assert " -  " in capsys.readouterr().out
    stranger = Rung("stranger_forward", "1_x", "x")
    monkeypatch.setattr(bench, "rungs_of", lambda operator: [stranger])
    with pytest.raises(ValueError, match=r"stranger_forward has no example in dcnlab/bench/kernels\.py"):
        bench.run(None, 1)


def test_every_operator_has_an_example():
    assert {rung.operator for rung in RUNGS.values()} <= set(bench.EXAMPLES)


# ---- the record


def test_the_record_is_of_today_s_rungs():
    record = json.loads((ROOT / "docs" / "results" / "kernels.json").read_text(encoding="utf-8"))
    paths = [rung.path for rung in RUNGS.values()]
    assert list(record["compiled"]["rungs"]) == paths, HOW
    assert list(record["measured"]["rungs"]) == paths, HOW
    for rung in RUNGS.values():
        needs = record["compiled"]["rungs"][rung.path]
        assert list(needs) == ladder.instances(rung, "cuda"), HOW
        assert not any(n["spill_stores"] or n["spill_loads"] for by in needs.values() for n in by.values())


def test_records_have_parts(tmp_path):
    path = tmp_path / "record.json"
    write_part(path, "a", {"b": [1, 2]})
    write_part(path, "c", {"text": "[a\nb]", "none": []})
    write_part(path, "a", 3)
    assert json.loads(path.read_text()) == {"a": 3, "c": {"text": "[a\nb]", "none": []}}
    for foreign in ("[1]", "nonsense"):
        path.write_text(foreign)
        with pytest.raises(ValueError, match=r"record\.json is there and is no record of kernels"):
            write_part(path, "a", 1)
        assert path.read_text() == foreign
    assert json.loads(as_json({"[": {"{": [[1], [2, 3]]}})) == {"[": {"{": [[1], [2, 3]]}}
