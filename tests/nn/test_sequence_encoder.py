from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emorec.data.sequences import CLS, EventSequences
from emorec.nn import sequence_encoder
from emorec.nn.sequence_encoder import SequenceEncoder
from tests.small import random_events, small_log

SIZE, NUM_ITEMS = 8, 9
EVENTS = random_events(num_users=12, num_items=NUM_ITEMS, most_events=8)
ITEMS = torch.randn(NUM_ITEMS, SIZE, generator=torch.Generator().manual_seed(1))
STYLES = [
    {},
    {"decay": "additive"},
    {
        "projections": True,
        "feedback_input": True,
        "request_time": True,
        "decay": "additive",
        "num_layers": 2,
    },
    {
        "num_heads": 1,
        "window": 3.0,
        "num_layers": 2,
        "feedback_input": True,
        "half_lives": (999.0, 999.0),
    },
]


@pytest.fixture(params=STYLES, ids=str)
def encoder(request):
    return SequenceEncoder(SIZE, 20, **({"num_heads": 2} | request.param)).eval()


def last_states(encoder, users, events=EVENTS, items=ITEMS, max_length=20, request=None):
    batch = events.inference_batch(np.asarray(users), max_length, request=request)
    return encoder(batch, items)[batch.last].detach()


def test_one_state_per_token(encoder):
    batch = EVENTS.inference_batch(np.arange(12), 20)
    states = encoder(batch, ITEMS)
    assert states.shape == (len(batch.item), SIZE)
    assert torch.isfinite(states).all()


def test_a_user_does_not_depend_on_who_else_is_in_the_batch(encoder):
    together = last_states(encoder, np.arange(12))
    for user in range(12):
        alone = last_states(encoder, [user])[0]
        torch.testing.assert_close(alone, together[user], rtol=1e-4, atol=1e-5)
    reverse = last_states(encoder, np.arange(12)[::-1].copy())
    torch.testing.assert_close(reverse.flip(0), together, rtol=1e-4, atol=1e-5)


def test_the_gap_to_the_next_user_does_not_leak(encoder):
    # User 1 starts 30 years after user 0 ended, or at the same time.
    def log(start):
        return EventSequences.build(
            small_log([(0, 0, 0, 5), (0, 1, 0, 9), (1, 2, 0, start), (1, 3, 1, start + 4)], 2, 4)
        )

    early, late = (last_states(encoder, [0, 1], log(start)) for start in (9, 10**9))
    assert torch.equal(early, late)


def test_nothing_depends_on_the_future(encoder):
    batch = EVENTS.inference_batch(np.arange(12), 20)
    before = encoder(batch, ITEMS)
    rng = np.random.default_rng(0)
    late = batch.position.numpy() >= 4
    for change in ("item", "feedback", "days"):
        column = getattr(batch, change).clone()
        column[late] = torch.from_numpy(rng.permutation(column[late].numpy()))
        if change == "days":
            column[late] += 500
        after = encoder(replace(batch, **{change: column}), ITEMS)
        torch.testing.assert_close(after[~late], before[~late])
        if change != "feedback" or encoder.feedback is not None:
            assert not torch.allclose(after[late], before[late]), change


def test_only_the_length_before_a_token_matters(encoder):
    # The state after k events is the one at the end of a history of k events.
    rows = [(0, event % NUM_ITEMS, event % 4, 10**9 + 3600 * event) for event in range(6)]
    request = 10**9 + 3600 * np.arange(7)[:, None]  # the time of the event after that
    events = EventSequences.build(small_log(rows, 1, NUM_ITEMS))
    whole = events.inference_batch(np.array([0]), 20, request=request[6])
    states = encoder(whole, ITEMS).detach()
    for length in range(7):
        prefix = EventSequences.build(small_log(rows[:length], 1, NUM_ITEMS))
        torch.testing.assert_close(
            last_states(encoder, [0], prefix, request=request[length])[0],
            states[length],
            rtol=1e-4,
            atol=1e-5,
        )


def test_empty_history_gives_the_state_of_cls(encoder):
    nobody = EVENTS.num_users - 1
    batch = EVENTS.inference_batch(np.array([0]), 20)
    assert EVENTS.lengths[nobody] == 0
    torch.testing.assert_close(last_states(encoder, [nobody])[0], encoder(batch, ITEMS)[0])
    items = torch.randn(NUM_ITEMS, SIZE)
    assert torch.equal(last_states(encoder, [nobody], items=items), last_states(encoder, [nobody]))


def test_cls_is_never_looked_up_in_tables():
    encoder = SequenceEncoder(SIZE, 20, feedback_input=True).eval()
    nobody = np.array([EVENTS.num_users - 1])
    batch = EVENTS.inference_batch(nobody, 20)
    assert batch.item.tolist() == [CLS]
    items = ITEMS.clone().requires_grad_()
    encoder(batch, items).sum().backward()
    assert items.grad is None or items.grad.abs().sum() == 0
    assert encoder.feedback.weight.grad is None or encoder.feedback.weight.grad.abs().sum() == 0


def test_feedback_matters_where_it_is_an_input():
    liked, disliked = (
        EventSequences.build(small_log([(0, 1, kind, 5)], 1, NUM_ITEMS)) for kind in (0, 3)
    )
    for wanted in (True, False):
        encoder = SequenceEncoder(SIZE, 20, feedback_input=wanted).eval()
        same = torch.equal(last_states(encoder, [0], liked), last_states(encoder, [0], disliked))
        assert same is not wanted


class TestTime:
    def test_a_pause_matters_and_the_calendar_does_not(self, encoder):
        def state(start, pause):
            rows = [(0, 1, 0, start), (0, 2, 0, start + pause)]
            return last_states(encoder, [0], EventSequences.build(small_log(rows, 1, NUM_ITEMS)))

        minute, year = 60, 365 * 86_400
        assert torch.equal(state(0, minute), state(1_700_000_000, minute))
        assert not torch.allclose(state(0, minute), state(0, year), atol=1e-3)

    def test_seconds_and_milliseconds_give_the_same_states(self, encoder):
        rows = [(0, 1, 0, 10**9), (0, 2, 0, 10**9 + 7000), (0, 3, 1, 10**9 + 10**6)]
        thousandfold = [(*row[:3], row[3] * 1000) for row in rows]
        seconds = EventSequences.build(small_log(rows, 1, NUM_ITEMS, "s"))
        milliseconds = EventSequences.build(small_log(thousandfold, 1, NUM_ITEMS, "ms"))
        assert torch.equal(
            last_states(encoder, [0], seconds), last_states(encoder, [0], milliseconds)
        )

    def test_a_century_between_events_is_harmless(self, encoder):
        rows = [(0, 1, 0, 0), (0, 2, 0, 36_500 * 86_400), (0, 3, 0, 36_500 * 86_400 + 1)]
        batch = EventSequences.build(small_log(rows, 1, NUM_ITEMS)).inference_batch(
            np.array([0]), 20
        )
        states = encoder(batch, ITEMS)
        states.sum().backward()
        assert torch.isfinite(states).all()
        for parameter in encoder.parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all()

    def test_half_lives_span_the_range_asked_for(self):
        encoder = SequenceEncoder(SIZE, 20, num_heads=3, half_lives=(0.5, 50.0))
        (layer,) = encoder.layers
        half_lives = np.log(2) / layer.decay_rate.detach().numpy()
        np.testing.assert_allclose(half_lives, [0.5, 5.0, 50.0], rtol=1e-5)


def test_every_parameter_learns(encoder):
    encoder.train()
    batch = EVENTS.inference_batch(np.arange(12), 20)
    weights = torch.randn(len(batch.item), SIZE)
    (encoder(batch, ITEMS) * weights).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_encoder_is_alive_before_and_after_training(encoder):
    """The paper's encoder gave every user the same vector; ours must tell them apart.

    Events are 1.6e9 seconds after the epoch. The standard deviation over users of the last state,
    averaged over its components (the paper's: 0), was 0.15 to 0.23 before and 1.7 to 1.8 after
    training when this was written.
    """
    rng = np.random.default_rng(0)
    rows = [
        (user, (user + step) % NUM_ITEMS, int(rng.integers(4)), 1_600_000_000 + 4000 * step + user)
        for user in range(40)
        for step in range(6)
    ]
    events = EventSequences.build(small_log(rows, 40, NUM_ITEMS))
    items = torch.nn.Parameter(0.1 * torch.randn(NUM_ITEMS, SIZE))
    optimizer = torch.optim.Adam([*encoder.parameters(), items], lr=0.02)

    def spread():
        return last_states(encoder, np.arange(40), events, items).std(0).mean().item()

    before = spread()
    batch, targets = events.training_batch(events.windows(20))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        scores = encoder(batch, items) @ items.T
        loss = torch.nn.functional.cross_entropy(scores, targets.item[:, 0])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = spread()
    assert before > 0.05
    assert after > 0.5
    # The next item follows from the last one; only the first event is a guess among nine.
    assert losses[-1] < 0.5 * losses[0]


def test_projections_need_heads_that_divide_the_size():
    with pytest.raises(ValueError, match="embedding size 8 is not a multiple of 3 heads"):
        SequenceEncoder(8, 20, num_heads=3, projections=True)
    assert SequenceEncoder(8, 20, num_heads=3).layers[0].num_heads == 3


def test_an_old_event_still_counts_in_the_paper_form():
    # With the paper's scale a token's own score is sqrt(D), and 98 % and more of its attention.
    encoder = SequenceEncoder(64, 20, num_heads=1, half_lives=(365.0, 365.0)).eval()
    items = 0.1 * torch.randn(NUM_ITEMS, 64)

    def state(first):
        rows = [(0, item, 0, 3600 * t) for t, item in enumerate([first, 4, 5, 6])]
        return last_states(encoder, [0], EventSequences.build(small_log(rows, 1, 9)), items)[0]

    assert (state(1) - state(2)).abs().mean() > 0.01


def test_half_lives_start_spread_on_a_logarithmic_scale_and_one_head_in_their_middle():
    def half_lives(num_heads: int) -> torch.Tensor:
        encoder = SequenceEncoder(12, 5, num_heads=num_heads, half_lives=(1.0, 100.0))
        return encoder.layers[0].log_half_life.exp().detach()

    torch.testing.assert_close(half_lives(3), torch.tensor([1.0, 10.0, 100.0]))
    torch.testing.assert_close(half_lives(1), torch.tensor([10.0]))


class TestLayer:
    """What of a layer no other test would miss."""

    def test_queries_and_keys_share_the_temperature(self, monkeypatch):
        encoder = SequenceEncoder(SIZE, 20, num_heads=2).eval()
        layer = encoder.layers[0]
        asked, normed = [], []
        attention = sequence_encoder.hawkes_attention

        def noted(query, key, *arguments, **options):
            asked.append((query, key))
            return attention(query, key, *arguments, **options)

        monkeypatch.setattr(sequence_encoder, "hawkes_attention", noted)
        layer.attention_norm.register_forward_hook(lambda *a: normed.append(a[2]))
        last_states(encoder, np.arange(12))
        (query, key), x = asked[0], normed[0]
        assert key is None
        # <q, k> = temperature <x, x>, which is 1 / sqrt(D) at the start
        torch.testing.assert_close((query * query).sum(1), (x * x).sum(1) / SIZE**0.5)

    def test_the_window_is_that_asked_for(self):
        states = []
        for window in (1.0, 5.0):
            torch.manual_seed(0)
            encoder = SequenceEncoder(SIZE, 20, num_heads=2, window=window).eval()
            states.append(last_states(encoder, np.arange(12)))
        assert not torch.allclose(*states)

    def test_what_is_attended_to_is_dropped_too(self):
        torch.manual_seed(0)
        encoder = SequenceEncoder(SIZE, 20, num_heads=2, dropout=0.75).train()
        layer = encoder.layers[0]
        with torch.no_grad():
            for parameter in layer.feed_forward.parameters():
                parameter.zero_()
            batch = EVENTS.inference_batch(np.arange(12), 20)
            x = torch.randn(len(batch.item), SIZE)
            added = layer(x, batch) - x
        assert (added == 0).float().mean() == pytest.approx(0.75, abs=0.1)


def test_what_tokens_enter_with():
    """Items times the root of D, [CLS], positions, kinds, and the log of hours since the last."""
    encoder = SequenceEncoder(SIZE, 20, num_heads=2, feedback_input=True, num_layers=1).eval()
    entered = []
    encoder.layers[0].register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    day = 86_400
    rows = [(0, 3, 0, 5 * day), (0, 1, 2, 5 * day), (0, 7, 3, 8 * day), (1, 2, 1, 2 * day)]
    events = EventSequences.build(small_log(rows, 2, NUM_ITEMS))
    last_states(encoder, [0, 1], events)
    gap = np.log1p([0, 0, 0, 72, 0, 0])[:, None]  # of three days
    expected = torch.from_numpy(gap).float() @ encoder.gap.weight.T + encoder.gap.bias
    expected += encoder.position.weight[[0, 1, 2, 3, 0, 1]]
    expected[[0, 4]] += encoder.cls
    expected[[1, 2, 3, 5]] += SIZE**0.5 * ITEMS[[3, 1, 7, 2]]
    expected[[1, 2, 3, 5]] += encoder.feedback.weight[[0, 2, 3, 1]]
    torch.testing.assert_close(entered[0], expected)


def test_what_tokens_enter_with_is_dropped_in_training():
    torch.manual_seed(0)
    encoder = SequenceEncoder(SIZE, 20, num_heads=2, dropout=0.75).train()
    entered = []
    encoder.layers[0].register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    last_states(encoder, np.arange(12))
    assert (entered[0] == 0).float().mean() == pytest.approx(0.75, abs=0.1)


class TestRequestTime:
    def states(self, encoder, seconds):
        """The states after one event, of a request so many seconds later."""
        events = EventSequences.build(small_log([(0, 4, 1, 1000)], 1, NUM_ITEMS))
        batch = events.inference_batch(np.array([0]), 20, request=np.array([1000 + seconds]))
        return encoder(batch, ITEMS).detach()

    def test_intervals_double(self):
        encoder = SequenceEncoder(SIZE, 20, request_time=True).eval()
        groups = [(0, 0), (1, 2), (3, 6), (7, 14), (2**27 - 1, 2**28 - 2), (2**31 - 1, 2**33)]
        found = []
        for first, last in groups:
            one, other = self.states(encoder, first), self.states(encoder, last)
            assert torch.equal(one, other)
            assert torch.equal(one[0], self.states(encoder, 0)[0])  # [CLS] knows of no request
            found.append(one[1])
        assert len(torch.unique(torch.stack(found), dim=0)) == len(groups)

    def test_without_it_the_time_of_the_request_makes_no_difference(self):
        encoder = SequenceEncoder(SIZE, 20).eval()
        assert torch.equal(self.states(encoder, 0), self.states(encoder, 10**6))

    def test_is_added_to_the_input(self):
        encoder = SequenceEncoder(SIZE, 20, num_layers=0, request_time=True).eval()
        batch = EVENTS.inference_batch(np.arange(12), 20)
        with torch.no_grad():
            encoder.norm = torch.nn.Identity()
            with_it = encoder(batch, ITEMS)
            until, encoder.until = encoder.until, None
            difference = with_it - encoder(batch, ITEMS)
        is_event = batch.item != CLS
        seconds = (batch.days_to_next[is_event] * 86_400).round().long().tolist()
        interval = [(1 + each).bit_length() - 1 for each in seconds]
        torch.testing.assert_close(difference[is_event], until.weight[interval].detach())
        assert not difference[~is_event].any()
