"""Floors are those of the known table: DCNv3, batch 64, on a GPU with these ceilings."""

import pytest

from dcnlab.bench.gpu.floors import DCNv3Size, Work, dcnv3_backward, dcnv3_forward, floors, scatter_us

H100 = {"copy": 3.0e12, "gather": 132 * 128 * 1.755e9, "fma": 132 * 128 * 1.755e9, "reduce_v4": 1e12}
# name: (side, channels, groups), fp16 MB, HBM us on H100 and H200, L1 us fp16, HBM and L1 us fp32, backward fp16, fp32
TABLE = {
    "T1": ((56, 64, 4), 94.7, 31.6, 22.0, 31.2, 63, 62, 55, 109),
    "T2": ((28, 128, 8), 47.4, 15.8, 11.0, 15.6, 32, 31, 27, 55),
    "T3": ((14, 256, 16), 23.7, 7.9, 5.5, 7.8, 16, 16, 14, 27),
    "T4": ((7, 512, 32), 11.8, 3.9, 2.8, 3.9, 8, 8, 7, 14),
    "B1": ((56, 112, 7), 166, 55, 39, 55, 111, 109, 96, 191),
    "H1": ((56, 320, 10), 365, 122, 85, 156, 244, 312, 201, 401),
}


def digits(value, like):
    """Round as the table does: to whole numbers, or to one digit after the point."""
    return round(value, 1) if isinstance(like, float) else round(value)


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name):
    (side, channels, groups), *wanted = TABLE[name]
    size = DCNv3Size(64 * side * side, 64 * side * side, channels, groups)
    half, single = dcnv3_forward(size, 2), dcnv3_forward(size, 4)
    back = [floors(dcnv3_backward(size, itemsize), H100)["hbm"] for itemsize in (2, 4)]
    found = [
        half.bytes / 1e6,
        floors(half, H100)["hbm"],
        floors(half, {**H100, "copy": 4.3e12})["hbm"],
        floors(half, H100)["l1"],
        floors(single, H100)["hbm"],
        floors(single, H100)["l1"],
        *back,
    ]
    assert [digits(f, w) for f, w in zip(found, wanted, strict=True)] == wanted


def test_a_pixel_by_hand():
    """2C + 27G values, 36C gathered, 72C + 270G operations of which a multiply-add is two; backward 3C + 54G."""
    c, g = 64, 4
    one = DCNv3Size(1, 1, c, g)
    forward, backward = dcnv3_forward(one, 4), dcnv3_backward(one, 4)
    assert forward == Work((2 * c + 27 * g) * 4, 36 * c * 4, (72 * c + 270 * g) / 2)
    assert backward == Work((3 * c + 54 * g) * 4, 36 * c * 4, (162 * c + 540 * g) / 2, 36 * c)
    assert dcnv3_forward(one, 2).instructions == (72 * c / 2 + 270 * g) / 2, "two halves an instruction"


def test_stride_reads_all_and_writes_less():
    size = DCNv3Size(in_pixels=16, out_pixels=4, channels=6, groups=3)
    assert dcnv3_forward(size, 2).bytes == 2 * (16 * 6 + 4 * (6 + 81))
    assert dcnv3_backward(size, 2).bytes == 2 * (2 * 16 * 6 + 4 * (6 + 162))


def test_a_floor_that_the_work_lacks_is_left_out():
    assert floors(Work(3e6), H100) == {"hbm": pytest.approx(1.0)}
    assert scatter_us(Work(3e6), H100) is None
    assert scatter_us(Work(1, reductions=4e6), H100) == pytest.approx(1.0)
