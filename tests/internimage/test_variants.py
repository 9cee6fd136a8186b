"""The published variants: parameters, multiply-adds, keys; the stacking and the scaling rule."""

import itertools

import pytest

from dcnlab import InternImage
from dcnlab.cli import main
from dcnlab.internimage import VARIANTS, scale, stacking_rules
from dcnlab.internimage.summary import costs, totals

# Parameters of the whole model and of the backbone, measured on the published code; keys of the state dictionary; and
# multiply-adds in G at the published size, as its rule counts them (OpenGVLab/InternImage, commit 31c962dc).
PUBLISHED = {
    "T": (29_918_424, 28_754_672, 633, 4.89),
    "S": (50_079_880, 48_502_560, 751, 8.31),
    "B": (97_461_832, 94_909_920, 751, 16.18),
    "L": (223_334_810, 218_952_370, 839, 107.79),
    "XL": (334_819_780, 328_971_228, 883, 162.93),
    "H": (1_089_636_760, 1_073_122_480, 1357, 1485),
    "G": (3_076_373_352, 3_052_781_184, 1295, 2701),
}
# Table 1 of the paper, and G of the published configurations: C1, C', L1, L2, L3, L4.
TABLE_1 = {
    "T": (64, 16, 4, 4, 18, 4),
    "S": (80, 16, 4, 4, 21, 4),
    "B": (112, 16, 4, 4, 21, 4),
    "L": (160, 16, 5, 5, 22, 5),
    "XL": (192, 16, 5, 5, 24, 5),
    "H": (320, 32, 6, 6, 32, 6),
    "G": (512, 32, 2, 2, 48, 4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_keys_and_multiply_adds(name):
    total, backbone, keys, billions = PUBLISHED[name]
    model = InternImage(**InternImage.variants[name])
    assert model.parameter_count() == total
    assert len(list(model.named_state())) == keys
    assert sum(cost.parameters for cost in costs(model) if cost.part != "head") == backbone
    counted, multiply_adds = totals(model, VARIANTS[name].size)
    assert counted == total
    assert multiply_adds / 1e9 == pytest.approx(billions, rel=0.005)
    assert all(state._value is None for _, state in model.named_state()), "counting allocates nothing"


@pytest.mark.parametrize("name", TABLE_1)
def test_the_table_of_the_paper(name):
    channels, group_channels, *depths = TABLE_1[name]
    settings = InternImage.variants[name]
    assert (settings["channels"], settings["depths"]) == (channels, depths)
    assert settings["groups"] == [channels * 2**i // group_channels for i in range(4)]
    if name != "G":  # depths 2, 2, 48, 4: G breaks L1 = L4
        rules = stacking_rules(channels, group_channels, depths[0], depths[2])
        assert rules == {key: settings[key] for key in ("channels", "depths", "groups")}


@pytest.mark.parametrize(
    ("phi", "name", "blocks_less"), [(0, "T", 0), (1, "S", 0), (2, "B", 3), (3, "L", 2), (3.5, "XL", 2), (5.2, "H", -3)]
)
def test_the_scaling_rule_from_the_origin(phi, name, blocks_less):
    """Its widths are the published ones; the published depths of B and larger were set by hand."""
    published = InternImage.variants[name]
    scaled = scale(phi, group_channels=32 if name == "H" else None)
    assert scaled.settings["channels"] == published["channels"]
    assert scaled.settings["groups"] == published["groups"]
    assert sum(scaled.settings["depths"]) - sum(published["depths"]) == blocks_less
    assert scaled.depth == pytest.approx(30 * 1.09**phi)
    assert scaled.channels == pytest.approx(64 * 1.36**phi)
    InternImage(**scaled.settings)


def test_a_step_of_the_scaling_rule_doubles_the_multiply_adds():
    counts = [totals(InternImage(**scale(phi).settings, num_classes=None))[1] for phi in range(5)]
    for small, large in itertools.pairwise(counts):
        assert 1.6 < large / small < 2.5  # widths are rounded to whole groups


def test_bad_rules_are_refused():
    with pytest.raises(ValueError, match="group_channels divide channels"):
        stacking_rules(60, 16, 4, 18)
    with pytest.raises(ValueError, match="L1 <= L3, got L1 = 5, L3 = 4"):
        stacking_rules(64, 16, 5, 4)
    with pytest.raises(ValueError, match="at least 1"):
        scale(1, alpha=0.9)


def test_the_command_prints_the_table(capsys):
    assert main(["model", "H"]) == 0
    text = capsys.readouterr().out
    assert "InternImage-H, one image of 640 x 640" in text
    assert "1,089,636,760" in text
    assert main(["model", "T", "--size", "64"]) == 0
    assert "16 x 16 x 64" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["model", "Q"])
