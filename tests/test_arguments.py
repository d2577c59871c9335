import numpy as np
import pytest

from parl_tf.arguments import check_at_least
from parl_tf.errors import InputError


@pytest.mark.parametrize("value", [1, 2, np.int64(1), 10**30])
def test_an_integer_that_is_large_enough_passes(value):
    check_at_least("num_steps", value, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "Expected num_steps of at least 1. Received: 0."),
        (np.int32(-3), "Expected num_steps of at least 1. Received: -3."),
        (2.0, "Expected num_steps to be an integer. Received: 2.0."),
        (float("nan"), "Expected num_steps to be an integer. Received: nan."),
        ("5", "Expected num_steps to be an integer. Received: '5'."),
        (True, "Expected num_steps to be an integer. Received: True."),
        (None, "Expected num_steps to be an integer. Received: None."),
    ],
)
def test_a_smaller_number_and_what_is_no_integer_are_refused_by_name(value, message):
    with pytest.raises(InputError) as refused:
        check_at_least("num_steps", value, 1)
    assert str(refused.value) == message
