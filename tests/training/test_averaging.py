from __future__ import annotations

import pytest
import torch
from torch import nn

from emorec.training.averaging import ParameterAverage


def model_at(value):
    model = nn.Linear(1, 1)
    set_to(model, value)
    return model


def set_to(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_by_hand():
    model = model_at(0.0)
    average = ParameterAverage(model, decay=0.2)
    for value in (1.0, 2.0):
        set_to(model, value)
        average.update()
    # First step: d = 2/11 < .2, so 9/11; then d = .2, so .2 * 9/11 + .8 * 2.
    with average.applied():
        assert model.weight.item() == pytest.approx(0.2 * 9 / 11 + 1.6)
        assert model.bias.item() == pytest.approx(0.2 * 9 / 11 + 1.6)
    assert model.weight.item() == 2


def test_forgets_the_start_soon():
    model = model_at(100.0)
    average = ParameterAverage(model, decay=0.999)
    set_to(model, 1.0)
    for _ in range(50):
        average.update()
    with average.applied():
        assert model.weight.item() == pytest.approx(1, abs=0.01)


def test_training_goes_on_with_the_parameters_themselves():
    model = model_at(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    average = ParameterAverage(model, decay=0.5)
    with average.applied():
        pass
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    assert model.weight.item() == 0
    with average.applied():
        assert model.weight.item() == 1


def test_an_error_within_puts_the_parameters_back():
    model = model_at(1.0)
    average = ParameterAverage(model, decay=0.5)
    set_to(model, 3.0)
    with pytest.raises(RuntimeError, match="inside"), average.applied():
        raise RuntimeError("inside")
    assert model.weight.item() == 3


def test_goes_on_from_what_was_saved():
    model = model_at(0.0)
    one = ParameterAverage(model, decay=0.9)
    set_to(model, 1.0)
    one.update()
    saved = {name: value.clone() for name, value in one.state_dict().items()}
    other = ParameterAverage(model, decay=0.9)
    other.load_state_dict(saved)
    for average in (one, other):
        average.update()
    assert one.steps == other.steps == 2
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
