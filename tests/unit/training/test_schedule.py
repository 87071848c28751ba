import pytest
from hypothesis import given
from hypothesis import strategies as st

from matmill.training.schedule import Limits, rate_factor

share = st.floats(0.0, 1.0)


@given(share, st.integers(0, 1000), st.sampled_from(["linear-tail", "cosine", "none"]))
def test_factor_is_a_share(progress, step, decay):
    factor = rate_factor(progress, step, warmup_steps=50, decay=decay, tail=0.15)
    assert 0.0 <= factor <= 1.0


@given(share, share, st.sampled_from(["linear-tail", "cosine"]))
def test_factor_never_rises_after_the_warm_up(a, b, decay):
    early, late = sorted((a, b))
    kwargs = {"warmup_steps": 0, "decay": decay, "tail": 0.15}
    assert rate_factor(late, 10, **kwargs) <= rate_factor(early, 10, **kwargs) + 1e-12


def test_known_values():
    kwargs = {"warmup_steps": 10, "decay": "linear-tail", "tail": 0.2}
    assert rate_factor(0.0, 4, **kwargs) == pytest.approx(0.5)
    assert rate_factor(0.8, 100, **kwargs) == pytest.approx(1.0)
    assert rate_factor(0.9, 100, **kwargs) == pytest.approx(0.5)
    assert rate_factor(1.0, 100, **kwargs) == 0.0


def test_progress_is_the_largest_share():
    limits = Limits(100, None, 10.0)
    assert limits.progress(50, 0.0, 8.0) == pytest.approx(0.8)
    assert limits.reached(100, 0, 1.0) == "max_steps"
    assert limits.reached(99, 0, 10.0) == "max_seconds"
    assert limits.reached(99, 10**6, 9.9) is None
