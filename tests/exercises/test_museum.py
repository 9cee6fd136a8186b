"""The bug museum: each exhibit fails for the stated reason, passed a weaker test, and can be repaired."""

import numpy as np
import pytest

import dcnlab
from dcnlab.exercises import museum, museum_checks
from dcnlab.exercises.museum import Comparison, Verdict

PIECES = museum.pieces()
each_piece = pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.name)


@each_piece
def test_the_exhibit_fails(piece):
    shown = piece.run()
    assert not shown.ok
    assert "the two DISAGREE" in str(shown)
    assert repr(shown) == str(shown)


@each_piece
def test_it_passes_a_test_that_cannot_see_the_mistake(piece):
    shown = piece.passed()
    assert shown.ok
    assert "the two agree" in str(shown)


@each_piece
def test_it_fails_for_the_stated_reason(piece):
    """What the reason predicts happens; and it is a prediction: it differs from what is right."""
    assert piece.proof().ok
    assert piece.reason in str(piece.proof())


@each_piece
def test_the_corrected_form_is_right_where_the_exhibit_fails(piece):
    assert piece.repaired().ok


@each_piece
def test_the_right_answer_and_the_wrong_ones(piece):
    assert len(piece.choices) == 3
    for letter, choice in piece.choices.items():
        verdict = museum.diagnose(piece, f" {letter.upper()} ")
        assert verdict.ok == (letter == piece.answer)
        assert verdict.text == f"{piece.name}: {'right' if verdict.ok else 'no'}. {choice.reply}"
        assert str(verdict).split() == verdict.text.split()


@each_piece
def test_it_says_where_it_was_published(piece):
    assert "https://github.com/" in piece.source
    assert piece.code().startswith("def ")


@pytest.mark.parametrize("answer", ["", "d", "ab", None, 1], ids=repr)
def test_what_is_no_answer(answer):
    assert museum.diagnose("pair_swapped", answer) == Verdict(False, "pair_swapped: choose one of a, b, c.")


def test_the_other_reasons_are_not_the_reason():
    """Swapping x and y does not explain the halves, nor the other way round: the proofs can fail."""
    swapped, halves = museum.get("pair_swapped"), museum.get("split_in_halves")
    assert not np.allclose(swapped.evidence()[0], halves.evidence()[1])
    assert not np.allclose(halves.evidence()[0], swapped.evidence()[1])


def test_the_padding_error_is_the_one_that_users_see():
    assert "could not be broadcast" in str(museum.get("padded_axes").run())


def test_the_library_s_own_check_passes_on_the_kinks():
    """At the very offsets at which central differences fail: `gradcheck` compares one-sided."""
    offset = np.zeros((1, 2, 3, 18))
    report = dcnlab.gradcheck(
        lambda offset: dcnlab.dcnv3(museum_checks.IMAGE, offset, museum_checks.MASK, padding=0),
        lambda grad, offset: (
            dcnlab.dcnv3_backward(grad, museum_checks.IMAGE, offset, museum_checks.MASK, padding=0).offset
        ),
        {"offset": offset},
        positions=lambda a: dcnlab.sampling_positions(a["offset"], 3, layout="dcnv3"),
    )
    assert report.ok
    assert report.checks[0].kinks


def test_a_comparison_of_other_shapes_fails():
    assert not museum._comparison("title", ("a", "b"), np.zeros(3), np.zeros(4)).ok
    assert not museum._comparison("title", ("a", "b"), "ValueError: no", "ValueError: no").ok
    assert isinstance(museum.get("padded_axes").run(), Comparison)


def test_an_unknown_piece():
    with pytest.raises(ValueError, match=r"piece must be one of pair_swapped, .*, got 'nothing'"):
        museum.get("nothing")
