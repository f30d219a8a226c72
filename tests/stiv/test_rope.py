"""Rotary positions against complex rotation, and their relative nature."""

from __future__ import annotations

import torch

from stiv.rope import frequencies, rope_1d, rope_2d, rotate, sincos_1d, sincos_2d

CPU, F64 = torch.device("cpu"), torch.float64


def test_rotation_is_complex_multiplication() -> None:
    x = torch.randn(2, 3, 7, 16, dtype=F64)
    turned = rotate(x, rope_1d(7, 16, 100.0, 0.5, CPU, F64))
    z = torch.complex(x[..., :8], x[..., 8:])
    angles = 0.5 * torch.arange(7, dtype=F64)[:, None] * frequencies(16, 100.0)
    z = z * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat([z.real, z.imag], -1))


def test_scores_depend_on_the_offset_only() -> None:
    q, k = torch.randn(2, 16, dtype=F64)
    table = rope_2d(6, 9, 16, 100.0, 1.0, CPU, F64)
    turned_q, turned_k = (rotate(z.expand(54, 16), table).view(6, 9, 16) for z in (q, k))
    score = turned_q[1, 2] @ turned_k[3, 7]
    torch.testing.assert_close(turned_q[2, 3] @ turned_k[4, 8], score)
    assert not torch.isclose(turned_q[1, 2] @ turned_k[4, 7], score)
    assert not torch.isclose(turned_q[1, 2] @ turned_k[3, 8], score)


def test_scaling_interpolates() -> None:
    """Twice the length at half the scale passes through the short table's positions."""
    short = rope_1d(5, 8, 50.0, 1.0, CPU, F64)
    long = rope_1d(10, 8, 50.0, 0.5, CPU, F64)
    torch.testing.assert_close(long[:, ::2], short)
    short, long = rope_2d(3, 4, 8, 50.0, 1.0, CPU, F64), rope_2d(6, 8, 8, 50.0, 0.5, CPU, F64)
    torch.testing.assert_close(long.unflatten(1, (6, 8))[:, ::2, ::2].flatten(1, 2), short)


def test_tables_are_built_once_and_usable_in_training() -> None:
    with torch.inference_mode():
        first = rope_1d(11, 8, 10.0, 1.0, CPU, torch.float32)
    assert rope_1d(11, 8, 10.0, 1.0, CPU, torch.float32) is first
    assert not first.is_inference()


def test_sincos_encodes_column_then_row() -> None:
    table = sincos_2d(3, 4, 16, 1.0, 0, 100.0, CPU, F64).view(3, 4, 16)
    assert torch.equal(table[0, :, :8], table[2, :, :8])
    assert torch.equal(table[:, 1, 8:], table[:, 3, 8:])
    torch.testing.assert_close(table[1, 2, :8], sincos_1d(4, 8, 1.0, 100.0, CPU, F64)[2])


def test_sincos_base_stretches_any_grid() -> None:
    small, large = (sincos_2d(n, n, 8, 1.0, 8, 9.0, CPU, F64).view(n, n, 8) for n in (4, 16))
    torch.testing.assert_close(large[::4, ::4], small)
