"""A figure is judged by its aim."""

from llamo_jax.evaluation.figure import Aim, Figure, Judged


def judged(value: float, aim: Aim = Aim(), unit: str = "", control: float | None = None) -> Judged:  # noqa: B008
    return Judged(Figure("x", value, unit, control=control), aim)


def test_a_figure_is_in_its_range_or_not() -> None:
    assert judged(16, Aim(high=18)).passed and not judged(19, Aim(high=18)).passed
    assert judged(80, Aim(low=80)).passed and not judged(79, Aim(low=80)).passed
    between = Aim(low=0.8, high=1.3)
    assert [judged(value, between).passed for value in (0.7, 0.8, 1.3, 1.31)] == [False, True, True, False]
    assert judged(5).passed is None
    assert judged(float("nan"), Aim(high=3)).passed is False


def test_aims_in_words() -> None:
    assert judged(0.7, Aim(low=0.8, high=1.3)).words == "0.8 to 1.3"
    assert judged(0, Aim(high=0), "clips").words == "at most 0 clips"
    assert judged(0, Aim(low=80), "%").words == "at least 80 %"
    assert judged(0).words == ""


def test_an_aim_may_be_a_distance_from_the_control() -> None:
    near = Aim(below_control=5)
    assert judged(60.5, near, "%", control=65).passed and not judged(59.5, near, control=65).passed
    assert judged(60, near, "%", control=65).words == "at least 60 %" and judged(60, near).passed is None


def test_an_aim_may_be_a_factor_on_the_control() -> None:
    walking = judged(1.0, Aim(low=0.7, high=1.3, of_control=True), "m/s", control=1.2)
    assert walking.words == "0.84 to 1.56 m/s" and walking.passed
    assert not judged(0.8, Aim(low=0.7, high=1.3, of_control=True), control=1.2).passed
    assert judged(0.8, Aim(low=0.7, of_control=True)).passed is None  # nothing to hold it against
