"""The `dcnlab` command: demo, info, gradcheck, model, classify, train, study, kernels, bench, convert."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from dcnlab.errors import BackendUnavailable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 fine, 1 a check failed, 2 bad input."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except (ValueError, TypeError, OSError, BackendUnavailable) as error:
        print(f"dcnlab {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"dcnlab {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    from dcnlab import __version__

    parser = argparse.ArgumentParser(prog="dcnlab", description="Understand, check and run deformable convolution.")
    parser.add_argument("--version", action="version", version=f"dcnlab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="bend a photo and learn the offsets that undo it; writes a report")
    demo.add_argument("image", nargs="?", help="a PNG or JPEG file (default: the photo that comes with matplotlib)")
    demo.add_argument("--out", default="dcnlab-demo", metavar="DIR", help="folder to write (default: %(default)s)")
    demo.add_argument("--seed", type=_natural, default=0, metavar="N", help="of the warp (default: %(default)s)")
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", help="versions, backends, and what turns on those that are off")
    info.set_defaults(run=_info)

    check = commands.add_parser("gradcheck", help="check every gradient of every operator; exit 1 if one is wrong")
    check.add_argument("--backend", choices=_backends(), help="for the operators that have kernels")
    check.add_argument("--seed", type=_natural, default=0, metavar="N")
    check.set_defaults(run=_gradcheck)

    model = commands.add_parser(
        "model", help="shapes, parameters, multiply-adds and memory of an InternImage, by stage"
    )
    model.add_argument("variant", choices=_variants(), help="one of %(choices)s", metavar="VARIANT")
    model.add_argument("--size", type=_positive, metavar="N", help="side of the image (default: the published one)")
    model.set_defaults(run=_model)

    classify = commands.add_parser("classify", help="what an InternImage takes a photo for, and where it looks")
    classify.add_argument("image", metavar="IMAGE", help="a PNG or JPEG file")
    classify.add_argument("--weights", required=True, metavar="FILE", help="a checkpoint: .pth, .safetensors or .npz")
    classify.add_argument("--variant", choices=_variants(), metavar="V", help="one of %(choices)s (default: by shapes)")
    classify.add_argument("--size", type=_positive, metavar="N", help="side of the image (default: the published one)")
    classify.add_argument("--top", type=_positive, default=5, metavar="N", help="classes (default: %(default)s)")
    classify.add_argument(
        "--show",
        metavar="DIR",
        help="also write a page with sampling points, modulation and receptive fields of each stage; "
        "takes the memory of a training step",
    )
    classify.set_defaults(run=_classify)

    _add_train(
        commands.add_parser(
            "train",
            help="train an InternImage from scratch; also by mpiexec -n N dcnlab train ...",
            description="Writes log.csv, curves.png, model.safetensors and the state of the run to a folder. "
            "Exit status: 0 fine, 1 training diverged, 2 bad usage.",
        )
    )

    study = commands.add_parser("study", help="the paper's questions at small scale: figures, a table, a page")
    study.add_argument("name", choices=_studies(), metavar="NAME", help="one of %(choices)s")
    study.add_argument("--out", metavar="DIR", help="folder to write (default: dcnlab-study-NAME)")
    study.add_argument("--seeds", type=_positive, default=5, metavar="N", help="runs of each (default: %(default)s)")
    study.add_argument("--jobs", type=_positive, metavar="N", help="runs at a time (default: the processors)")
    study.set_defaults(run=_study)

    _add_kernels(
        commands.add_parser("kernels", help="list, check, compile and measure CUDA C++ kernels, without a GPU")
    )

    bench = commands.add_parser("bench", help="measure speed as ratios to a peer in the same run")
    kinds = bench.add_subparsers(dest="kind", required=True, metavar="WHAT")
    ops = kinds.add_parser("ops", help="the operators beside matmul, and onnxruntime and torchvision where installed")
    ops.add_argument("--repeats", type=_positive, default=15, metavar="N", help="rounds (default: %(default)s)")
    ops.add_argument("--out", metavar="FILE.json", help="also record the figures")
    ops.set_defaults(run=_bench_ops)
    models = kinds.add_parser("model", help="InternImage: time beside matmul, time of each layer, memory")
    models.add_argument("--variant", choices=_variants(), default="T", help="(default: %(default)s)")
    models.add_argument("--size", type=_positive, default=224, metavar="N", help="of the image (default: %(default)s)")
    models.add_argument("--repeats", type=_positive, default=5, metavar="N", help="rounds (default: %(default)s)")
    models.add_argument("--huge", action="store_true", help="also the memory of variant H (1.09 billion parameters)")
    models.add_argument("--out", metavar="FILE.json", help="also record the figures")
    models.set_defaults(run=_bench_model)
    trains = kinds.add_parser("train", help="a step of training as more processes share its batch")
    trains.add_argument("--processes", type=_positive, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    trains.add_argument("--steps", type=_positive, default=20, metavar="N", help="timed (default: %(default)s)")
    trains.add_argument("--out", metavar="FILE.json", help="also record the figures")
    trains.set_defaults(run=_bench_train)
    gpu = kinds.add_parser("gpu", help="every rung on a GPU: checked, timed, beside what the GPU does at best")
    gpu.add_argument("--seconds", type=_positive, default=420, metavar="N", help="to spend (default: %(default)s)")
    gpu.add_argument("--out", metavar="FILE.json", help="also record the figures")
    gpu.set_defaults(run=_bench_gpu)

    convert = commands.add_parser("convert", help="write a checkpoint as .safetensors or .npz, running nothing in it")
    convert.add_argument("input", metavar="IN", help="a checkpoint of torch (.pth), .safetensors or .npz")
    convert.add_argument("output", metavar="OUT", help="the file to write; its suffix chooses the format")
    convert.set_defaults(run=_convert)
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    """Add an option for each setting of a run; the settings say what each is."""
    from dcnlab.train.settings import Settings

    fields = {field.name: field for field in dataclasses.fields(Settings)}
    data = fields.pop("data")
    train.add_argument("data", nargs="?", default=data.default, metavar="DATA", help=f"{_help(data)} (%(default)s)")
    folders = train.add_mutually_exclusive_group(required=True)
    folders.add_argument("--out", metavar="DIR", help="folder of a new run")
    folders.add_argument("--resume", metavar="DIR", help="go on with the run in a folder, with its settings")
    for name, field in fields.items():
        train.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            choices=field.metadata.get("choices"),
            metavar=None if "choices" in field.metadata else "N",
            help=f"{_help(field)} (%(default)s)",
        )
    train.set_defaults(run=_train)


def _help(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata["help"]).replace("%", "%%")


def _add_kernels(kernels: argparse.ArgumentParser) -> None:
    actions = kernels.add_subparsers(dest="action", required=True, metavar="WHAT")
    listed = actions.add_parser("list", help="every rung of the kernel ladder: its idea, instances, where it is in use")
    listed.add_argument("operator", nargs="?", metavar="OPERATOR", help="such as dcnv3_forward (default: all)")
    listed.set_defaults(run=_list_kernels)

    checked = actions.add_parser(
        "check",
        help="run the kernels of a file in the modes that find bugs",
        description="Finds accesses out of bounds, data races, reads of uninitialised shared memory (check) and "
        "undefined behaviour (ubsan). Exit status: 0 clean, 1 a fault, 2 bad usage or nothing was launched.",
    )
    checked.add_argument("file", metavar="FILE", help="a .cu file with '// run:' comments, or a .py file that launches")
    checked.add_argument("--mode", choices=("check", "ubsan", "both"), default="both", help="(default: %(default)s)")
    checked.set_defaults(run=_check_kernels)

    compiled = actions.add_parser(
        "compile",
        help="registers, shared memory and spills on every GPU architecture, by NVRTC, without a GPU",
        description="Exit status: 0 fine, 1 a kernel does not compile or spills registers, 2 bad usage or no NVRTC.",
    )
    compiled.add_argument("what", nargs="?", metavar="FILE|OPERATOR", help="a .cu file, or one operator (default: all)")
    compiled.add_argument("--arch", nargs="+", metavar="sm_90", help="(default: all from sm_75 to sm_120)")
    compiled.add_argument("--out", metavar="FILE.json", help="also record the numbers of all rungs")
    compiled.set_defaults(run=_compile_kernels)

    measured = actions.add_parser(
        "bench", help="bytes that every rung asks of memory, counted, and its time on this CPU"
    )
    measured.add_argument("operator", nargs="?", metavar="OPERATOR", help="such as dcnv3_forward (default: all)")
    measured.add_argument("--repeats", type=_positive, default=7, metavar="N", help="timed runs (default: %(default)s)")
    measured.add_argument("--out", metavar="FILE.json", help="also record the figures of all rungs")
    measured.set_defaults(run=_bench_kernels)


def _backends() -> list[str]:
    from dcnlab.backends import BACKENDS

    return list(BACKENDS)


def _variants() -> list[str]:
    from dcnlab.internimage.variants import VARIANTS

    return list(VARIANTS)


def _studies() -> list[str]:
    from dcnlab.study import NAMES

    return list(NAMES)


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _demo(arguments: argparse.Namespace) -> int:
    from dcnlab.demo import run

    run(arguments.image, arguments.out, arguments.seed)
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from dcnlab.info import show_config

    show_config()
    return 0


def _gradcheck(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from dcnlab.gradient_table import check_operators

    table = check_operators(
        arguments.backend, arguments.seed, lambda cases: tqdm(cases, desc="gradcheck", disable=None, leave=False)
    )
    print(table)
    return 0 if table.ok else 1


def _model(arguments: argparse.Namespace) -> int:
    from dcnlab.internimage import VARIANTS, InternImage
    from dcnlab.internimage.summary import summary

    variant = VARIANTS[arguments.variant]
    model = InternImage(**variant.settings)
    print(summary(model, arguments.size or variant.size, f"InternImage-{variant.name}"))
    return 0


def _classify(arguments: argparse.Namespace) -> int:
    from dcnlab.classify import run

    run(arguments.image, arguments.weights, arguments.variant, arguments.size, arguments.top, arguments.show)
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from dcnlab.train.program import resume, train
    from dcnlab.train.settings import Settings

    names = [field.name for field in dataclasses.fields(Settings)]
    given = {name: getattr(arguments, name) for name in names}
    if arguments.resume is None:
        return train(Settings(**given), arguments.out)
    if changed := [name for name in names if given[name] != getattr(Settings(), name)]:
        raise ValueError(f"--resume goes on with the settings of the run; leave out {', '.join(changed)}")
    return resume(arguments.resume)


def _study(arguments: argparse.Namespace) -> int:
    from dcnlab.study import run

    run(arguments.name, arguments.out or f"dcnlab-study-{arguments.name}", arguments.seeds, arguments.jobs)
    return 0


def _check_kernels(arguments: argparse.Namespace) -> int:
    from dcnlab.launch.check_file import check_file

    return check_file(arguments.file, arguments.mode)


def _list_kernels(arguments: argparse.Namespace) -> int:
    from dcnlab.compiled.ladder import listing

    print(listing(arguments.operator))
    return 0


def _compile_kernels(arguments: argparse.Namespace) -> int:
    from dcnlab.compiled.resources import ARCHITECTURES, compile_kernels

    return compile_kernels(arguments.what, arguments.arch or ARCHITECTURES, arguments.out)


def _bench_kernels(arguments: argparse.Namespace) -> int:
    from dcnlab.bench.kernels import run

    run(arguments.operator, arguments.repeats, arguments.out)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from dcnlab.checkpoints.convert import convert

    print(convert(arguments.input, arguments.output))
    return 0


def _bench_model(arguments: argparse.Namespace) -> int:
    from dcnlab.bench.model import run

    run(arguments.variant, arguments.size, arguments.repeats, arguments.out, arguments.huge)
    return 0


def _bench_train(arguments: argparse.Namespace) -> int:
    from dcnlab.bench.train import run

    run(arguments.processes, arguments.steps, arguments.out)
    return 0


def _bench_gpu(arguments: argparse.Namespace) -> int:
    from dcnlab.bench.gpu.run import all_right, run

    return 0 if all_right(run(arguments.out, arguments.seconds)) else 1


def _bench_ops(arguments: argparse.Namespace) -> int:
    from dcnlab.bench.ops import run

    run(arguments.repeats, arguments.out)
    return 0
