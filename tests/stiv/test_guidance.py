"""Guidance: the paper's formulas and what they reduce to."""

from __future__ import annotations

import torch

from stiv.guidance import joint_guidance, renormalize, separate_guidance

SHAPE = (2, 4, 3, 2, 2)
NULL, IMAGE, BOTH = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_scale_one_is_the_conditional_prediction() -> None:
    torch.testing.assert_close(joint_guidance(NULL, BOTH, 1.0), BOTH)
    torch.testing.assert_close(separate_guidance(NULL, IMAGE, BOTH, 1.0, 1.0), BOTH)
    assert torch.equal(joint_guidance(NULL, BOTH, 0.0), NULL)


def test_separate_with_equal_scales_is_joint() -> None:
    """With s1 = s2 the middle prediction cancels."""
    torch.testing.assert_close(
        separate_guidance(NULL, IMAGE, BOTH, 7.5, 7.5), joint_guidance(NULL, BOTH, 7.5)
    )


def test_separate_without_image_is_text_guidance() -> None:
    torch.testing.assert_close(
        separate_guidance(NULL, NULL, BOTH, 1.5, 7.5), joint_guidance(NULL, BOTH, 7.5)
    )


def test_renormalized_has_the_direction_and_the_other_length() -> None:
    guided = joint_guidance(NULL, BOTH, 7.5)
    result = renormalize(guided, BOTH)
    for sample in range(2):
        torch.testing.assert_close(result[sample].norm(), BOTH[sample].norm())
        cosine = torch.cosine_similarity(result[sample].flatten(), guided[sample].flatten(), 0)
        torch.testing.assert_close(cosine, torch.tensor(1.0))


def test_given_frames_do_not_count_in_the_norm() -> None:
    mask = torch.tensor([[True, False, False]] * 2)
    guided = joint_guidance(NULL, BOTH, 7.5)
    disturbed = guided.clone()
    disturbed[:, :, 0] *= 100
    expected = renormalize(guided[:, :, 1:], BOTH[:, :, 1:])
    torch.testing.assert_close(renormalize(disturbed, BOTH, mask)[:, :, 1:], expected)


def test_zero_stays_finite() -> None:
    assert renormalize(torch.zeros(SHAPE), BOTH).abs().max() == 0
