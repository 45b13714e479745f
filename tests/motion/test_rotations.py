"""Rotations: conventions and properties."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamo_jax.motion import rotations as rot

PROPERTY = settings(deadline=None, max_examples=60)
VECTORS = arrays.arrays(np.float64, (4, 3), elements=st.floats(-3, 3, width=32))
ORDERS = st.permutations("XYZ").map("".join)


def test_6d_is_the_first_two_rows_not_the_columns():
    matrix = rot.yaw(np.array(0.3))
    assert np.allclose(rot.to_6d(matrix), [np.cos(0.3), 0, np.sin(0.3), 0, 1, 0])


@PROPERTY
@given(VECTORS)
def test_6d_round_trip(vectors):
    matrices = rot.from_rotvec(vectors)
    assert np.allclose(rot.from_6d(rot.to_6d(matrices)), matrices, atol=1e-12)


@PROPERTY
@given(arrays.arrays(np.float64, (5, 6), elements=st.floats(-2, 2, width=32)))
def test_any_six_independent_numbers_give_a_rotation(values):
    matrices = rot.from_6d(values)
    assert np.isfinite(matrices).all()
    first, second = values[:, :3], values[:, 3:]
    independent = np.linalg.norm(np.cross(first, second), axis=-1) > 1e-3
    independent &= (np.linalg.norm(first, axis=-1) > 1e-3) & (np.linalg.norm(second, axis=-1) > 1e-3)
    chosen = matrices[independent]
    assert np.allclose(chosen @ np.swapaxes(chosen, -1, -2), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(chosen), 1)


def test_degenerate_6d_is_never_nan():
    assert np.isfinite(rot.from_6d(np.zeros((2, 6)))).all()
    assert np.isfinite(rot.from_6d(np.ones((2, 6)))).all()


# At gimbal lock the angles are not unique, and SciPy says so; the matrix still is.
@pytest.mark.filterwarnings("ignore:Gimbal lock")
@PROPERTY
@given(VECTORS, ORDERS)
def test_euler_round_trip(vectors, order):
    matrices = rot.from_rotvec(vectors)
    assert np.allclose(rot.from_euler(order, rot.to_euler(order, matrices)), matrices, atol=1e-6)


def test_euler_order_is_that_of_bvh_channels():
    x, y, z = (rot.from_rotvec(np.radians(angle) * axis) for angle, axis in zip((10, 20, 30), np.eye(3), strict=True))
    assert np.allclose(rot.from_euler("ZXY", np.array([30.0, 10.0, 20.0])), z @ x @ y)


@PROPERTY
@given(VECTORS, VECTORS)
def test_between_takes_one_direction_to_the_other(sources, targets):
    usable = (np.linalg.norm(sources, axis=-1) > 0.1) & (np.linalg.norm(targets, axis=-1) > 0.1)
    sources, targets = sources[usable], targets[usable]
    moved = np.einsum("nij,nj->ni", rot.between(sources, targets), sources)
    assert np.allclose(np.cross(moved, targets), 0, atol=1e-6)
    assert ((moved * targets).sum(-1) > 0).all()


def test_between_opposite_directions():
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    moved = np.einsum("nij,nj->ni", rot.between(axes, -axes), axes)
    assert np.allclose(moved, -axes)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.5, np.pi - 1e-6, np.pi])
def test_geodesic_is_exact_at_both_ends(angle):
    start = rot.from_rotvec(np.array([0.4, -0.3, 1.0]))
    turned = start @ rot.from_rotvec(angle * np.array([0.6, 0.0, 0.8]))
    assert rot.geodesic(start, turned) == pytest.approx(angle, abs=1e-9)


def test_heading_of_yaw_and_its_sense():
    angles = np.linspace(-3, 3, 13)
    assert np.allclose(rot.heading(rot.yaw(angles)), angles)
    assert np.allclose(rot.yaw(np.array(np.pi / 2)) @ [0, 0, 1], [1, 0, 0])  # a turn to the left faces +X


def test_resample_interpolates_on_the_sphere_and_stops_at_the_end():
    axis = np.array([0.0, 0.6, 0.8])
    matrices = rot.from_rotvec(np.array([0.0, 1.0, 1.5])[:, None] * axis)[:, None]
    sampled = rot.resample(matrices, np.array([0.0, 0.25, 1.5, 2.0]))
    assert np.allclose(rot.to_rotvec(sampled)[:, 0] @ axis, [0.0, 0.25, 1.25, 1.5])
