"""The neural predictor: its bound against numbers by hand, its encoder, and what it learns.

The encoder is taken as a function of a set.
"""

from __future__ import annotations

import math

import pytest
import torch
from promptgps_service.model.checkpoint import pack, unpack
from promptgps_service.model.features import Features, fit_frame
from promptgps_service.model.neural import FitDiverged, Neural
from promptgps_service.model.neural.decoder import Decoder
from promptgps_service.model.neural.encoder import Encoder, Tokens, Transition
from promptgps_service.model.neural.history import MOST_VISITS, Step, Window, nothing, pad
from promptgps_service.model.neural.latent import Normal, antithetic, condition, divergence
from promptgps_service.model.neural.likelihood import derivatives, log_evidence
from promptgps_service.model.neural.objective import Model, Noise, Past
from promptgps_service.model.predictor import Visits
from promptgps_service.model.quality import spearman
from torch.distributions import Independent, kl_divergence
from torch.distributions import Normal as TorchNormal

CPU = torch.device("cpu")
SMALL = {"width": 16, "iterations": 6}
QUICK = {"width": 16, "iterations": 10}  # enough to learn in
VARIANTS = [
    {},
    {"own_record": False},
    {"own_record": False, "residual": False},
    {"prior": "previous"},
    {"prior": "none"},
    {"layers": 1, "width": 8},
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def taught(pool, steps, batch, **parameters):
    predictor = Neural(pool.features, device=CPU, **parameters)
    for _ in range(steps):
        predictor.observe(pool.visit(pool.some(batch)))
    return predictor


def surprise(posterior, gamma):
    """Expected log-loss of one attempt, nats."""
    p = posterior.mean
    return float(-(gamma * p.log() + (1 - gamma) * (1 - p).log()).mean())


def step_of(s, n):
    zero = torch.zeros(len(s), dtype=torch.float64)
    s, n = (torch.tensor(values, dtype=torch.float64) for values in (s, n))
    return Step(
        torch.arange(len(s)), s, n, zero, torch.full_like(zero, torch.inf), zero, zero, zero
    )


def tokens_of(sets, members, dimension=5, seed=1):
    random = seeded(seed)
    x, scalars = (torch.randn(sets, members, size, generator=random) for size in (dimension, 5))
    evidence, precision = torch.randn(2, sets, members, generator=random)
    return Tokens(x, scalars, evidence, precision**2)


def shaken(module):
    """The same with every parameter moved, so that nothing is zero by its start."""
    random = seeded(9)
    with torch.no_grad():
        for value in module.parameters():
            value += 0.3 * torch.randn(value.shape, generator=random)
    return module


def test_divergence_of_normals():
    q = Normal(torch.tensor([[1.0, -0.5]]), torch.tensor([[0.5, 2.0]]))
    p = Normal(torch.tensor([[0.0, 0.5]]), torch.tensor([[1.0, 0.25]]))
    by_hand = 0.5 * (0.5 + 1.0 - 1.0 - math.log(0.5)) + 0.5 * (8.0 + 4.0 - 1.0 - math.log(8.0))
    assert float(divergence(q, p)) == pytest.approx(by_hand, rel=1e-6)
    one, two = (Independent(TorchNormal(z.mean, z.variance.sqrt()), 1) for z in (q, p))
    torch.testing.assert_close(divergence(q, p), kl_divergence(one, two))
    assert float(divergence(q, q)) == 0.0


def test_conditioning_is_bayes_rule():
    precision = torch.tensor([[4.0], [1.0]])
    z = condition(torch.tensor([0.5]), precision * torch.tensor([[1.0], [-2.0]]), precision)
    assert float(z.variance) == pytest.approx(1 / (2 + 4 + 1))
    assert float(z.mean) == pytest.approx((4 * 1 - 2) / 7)


def test_opposite_draws_cancel():
    noise = antithetic(6, (3,), seeded())
    torch.testing.assert_close(noise.sum(0), torch.zeros(3))
    assert antithetic(5, (3,), seeded()).shape == (5, 3)


def test_evidence_and_its_derivatives_by_dense_integration():
    mu = torch.tensor([-1.0, 0.3, 2.5], dtype=torch.float64, requires_grad=True)
    V = torch.tensor([0.4, 3.0, 8.0], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([1.0, 8.0, 0.0], dtype=torch.float64)
    n = torch.tensor([3.0, 8.0, 8.0], dtype=torch.float64)
    theta = torch.linspace(-40, 40, 40_001, dtype=torch.float64)[:, None]
    rate = torch.sigmoid(theta).clamp(1e-300, 1 - 1e-16)
    density = torch.exp(-0.5 * (theta - mu) ** 2 / V) / (2 * math.pi * V).sqrt() * (80 / 40_000)
    truth = (density * rate**s * (1 - rate) ** (n - s)).sum(0).log()
    value = log_evidence(mu, V, s, n)
    torch.testing.assert_close(value, truth, atol=0.01, rtol=0)
    for x in (mu, V):
        one, two = (torch.autograd.grad(f.sum(), x, retain_graph=True)[0] for f in (value, truth))
        torch.testing.assert_close(one, two, atol=0.02, rtol=0.05)
    slope, _ = derivatives(mu.detach(), V.detach(), s, n)
    torch.testing.assert_close(slope, torch.autograd.grad(truth.sum(), mu)[0], atol=0.02, rtol=0.05)


def test_the_bound_of_one_pair_by_hand():
    """Without text or residual, and at the start of training, Eq. 8 has three terms.

    A pocket calculator gives them.
    """
    sizes = {"latent": 1, "width": 4, "layers": 0}
    model = Model((), prior="learned", residual=False, random=seeded(), device=CPU, **sizes)
    now, past = (pad([one]) for one in (step_of([6.0, 1.0], [8.0, 2.0]), nothing(CPU)))
    x = torch.zeros(1, 2, 0)
    pair = (Past(past, x[:, :0], torch.ones(1, 0)), Past(now, x, torch.ones(1, 2)))
    q = model.posterior(model.tokens(now, x))
    e = 0.7
    noise = Noise(torch.tensor([[[e]], [[-e]]]), torch.zeros(2, 1, 2))
    m = float(q.mean.detach())
    v = float(q.variance.detach())
    fit = 0.0
    for sign in (e, -e):
        gamma = 1 / (1 + math.exp(-(m + sign * v**0.5)))
        fit += 0.5 * (7 * math.log(gamma) + 3 * math.log(1 - gamma))  # 6 + 1 of 8 + 2
    divergence_by_hand = 0.5 * (v + m * m - 1 - math.log(v))  # before the first batch z ~ N(0, 1)
    for weight in (1.0, 3.0):
        loss = model.loss(*pair, torch.tensor([weight]), noise)
        # q(w) starts at its prior, the others at their anchors: they cost nothing.
        assert float(loss.detach()) == pytest.approx(-weight * (fit - divergence_by_hand), abs=0.02)


def test_the_first_latent_is_the_level_before_anything_is_learned():
    sizes = {"latent": 2, "width": 4, "layers": 0}
    model = Model((), prior="learned", residual=True, random=seeded(), device=CPU, **sizes)
    now = pad([step_of([8.0, 7.0, 8.0, 3.0] * 100, [8.0] * 400)])
    levels = torch.arange(-4.0, 6.0, 0.01, dtype=torch.float64)[:, None]
    likeliest = float(
        levels[log_evidence(levels, torch.full_like(levels, 2.0), now.s, now.n).sum(1).argmax()]
    )
    tokens = model.tokens(now, torch.zeros(1, 400, 0))
    for z in (model.posterior(tokens), model.ahead(tokens)):
        assert float(z.mean[0, 0].detach()) == pytest.approx(likeliest, abs=0.05)
        assert float(z.mean[0, 1].detach()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("transition", [False, True])
def test_a_set_has_no_order_and_padding_no_meaning(layers, transition):
    encoder = Encoder(5, 3, 8, layers, seeded())
    encoder = shaken(Transition(encoder, 3) if transition else encoder)
    tokens = tokens_of(2, 7)
    z = encoder(tokens)
    order = torch.randperm(7, generator=seeded(2))
    turned = encoder(Tokens(*(part[:, order] for part in vars(tokens).values())))
    longer = Tokens(*(torch.cat([part, part[:, :3]], dim=1) for part in vars(tokens).values()))
    for part in (longer.precision, longer.evidence):
        part[:, 7:] = 0.0
    for other in (turned, encoder(longer)):
        torch.testing.assert_close(other.mean, z.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(other.variance, z.variance, atol=1e-5, rtol=1e-4)
    assert (
        z.variance < encoder(Tokens(*(part[:, :2] for part in vars(tokens).values()))).variance
    ).any()


def test_what_the_decoder_says_of_no_text_is_the_level_alone(world):
    features = world(4, 6).features
    decoder = shaken(Decoder(features.blocks, 3, 8, 1, seeded()))
    told = decoder(torch.zeros(2, features.dimension), torch.randn(4, 3, generator=seeded()))
    # Up to rounding: what cancels here need not do so to the last bit on every processor.
    torch.testing.assert_close(told.mean, torch.zeros(4, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(told.variance, torch.zeros(4, 2), atol=1e-5, rtol=0)


def test_pairs_drawn_stand_for_the_window():
    window = Window(CPU)
    for size in (300, 200, 250, 100, 60):
        window.push(step_of([1.0] * size, [2.0] * size))
    random = seeded()
    total = torch.zeros(6)
    for _ in range(400):
        places, weight = window.draw(random)
        assert places[-1] == window.pairs == 5
        total[places] += torch.tensor(weight)
    torch.testing.assert_close(total[1:] / 400, torch.ones(5), atol=0.2, rtol=0)


def test_the_window_is_bounded_and_comes_back():
    window = Window(CPU)
    for number in range(20):
        window.push(step_of([float(number)] * 1000, [100.0] * 1000))
    assert sum(len(step) for step in window.steps) <= MOST_VISITS
    assert window.pairs >= 2
    twin = Window(CPU)
    twin.load_state_dict(window.state_dict(), CPU)
    assert [step.s.tolist() for step in twin.steps] == [step.s.tolist() for step in window.steps]
    for _ in range(2):
        window.push(step_of([1.0] * 20_000, [2.0] * 20_000))
    assert window.pairs >= 2  # however large steps are, two stay to learn a transition from


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_goes_on_from_its_state_as_if_it_had_not_stopped(world, variant):
    pool = world(120, 8)
    parameters = SMALL | variant
    predictor = taught(pool, 4, 30, **parameters)
    twin = Neural(pool.features, device=CPU, **parameters)
    twin.load_state_dict(unpack(pack(predictor.state_dict(), {}))[0])
    for _ in range(3):
        visits = pool.visit(pool.some(30))
        for one in (predictor, twin):
            one.observe(visits)
    one = predictor.state_dict()
    two = twin.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(predictor.predict().mu, twin.predict().mu)
    assert predictor.predict().mu.isfinite().all()


def test_a_state_of_other_nets_is_refused(world):
    pool = world(30, 4)
    with pytest.raises(ValueError, match="size of nets"):
        taught(pool, 1, 10, width=8).load_state_dict(taught(pool, 1, 10, width=4).state_dict())


def test_seeds_differ_and_repeat(world):
    one, two, three = (
        taught(world(60, 6), 3, 30, seed=seed, **SMALL).predict().mu for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


@pytest.mark.parametrize("own_record", [True, False])
def test_it_learns_what_text_tells(world, own_record):
    rho = []
    for seed in (0, 1):
        pool = world(600, 8, seed=seed, text=3.0, own=0.3)
        predictor = taught(pool, 15, 32, own_record=own_record, **QUICK)
        posterior = predictor.predict()
        unseen = pool.unseen
        rho.append(spearman(posterior.mean[unseen], pool.gamma[unseen]))
        gamma = pool.gamma[unseen]
        constant = surprise(type(posterior)(torch.logit(gamma.mean()), torch.tensor(0.0)), gamma)
        assert surprise(posterior.take(torch.nonzero(unseen).squeeze(1)), gamma) < constant - 0.08
    assert min(rho) > 0.8


@pytest.mark.parametrize("own_record", [True, False])
def test_where_text_tells_nothing_unseen_prompts_get_the_level(world, own_record):
    """The study's version of the model did worse than a constant here.

    It remembered prompts by their features.
    """
    pool = world(500, 32, text=0.0, own=4.0)
    posterior = taught(pool, 25, 32, own_record=own_record, width=32, iterations=12).predict()
    unseen = torch.nonzero(pool.unseen).squeeze(1)
    gamma = pool.gamma[unseen]
    best = surprise(type(posterior)(torch.logit(gamma.mean()), torch.tensor(0.0)), gamma)
    assert surprise(posterior.take(unseen), gamma) < best + 0.02


def test_its_own_record_tells_prompts_apart_that_text_does_not(world):
    pool = world(300, 8, text=0.2, own=4.0)
    with_record, without = (
        taught(pool, 20, 48, own_record=own, **QUICK).predict() for own in (True, False)
    )
    seen = ~pool.unseen
    assert spearman(with_record.mean[seen], pool.gamma[seen]) > 0.85
    assert (
        spearman(with_record.mean[seen], pool.gamma[seen])
        > spearman(without.mean[seen], pool.gamma[seen]) + 0.2
    )


@pytest.mark.parametrize("jump", [4.0, -4.0])
def test_a_jump_of_the_level_is_followed(world, jump):
    pool = world(1000, 8, level=-jump / 2)
    predictor = taught(pool, 12, 64, **QUICK)
    pool.theta += jump
    for _ in range(8):
        predictor.observe(pool.visit(pool.some(64)))
    assert float(predictor.predict().mean.mean()) == pytest.approx(
        float(pool.gamma.mean()), abs=0.1
    )


def test_training_its_own_choice_does_not_lead_it_astray(world):
    pool = world(500, 8, own=4.0, lift=0.25, drift=0.01)
    predictor = Neural(pool.features, device=CPU, **QUICK)
    chosen = []
    uniform = []
    for step in range(40):
        rows = pool.some(500)
        if step:
            gamma, weights = predictor.predict().nodes()
            rows = rows[
                torch.argsort((gamma * (1 - gamma) @ weights)[rows], descending=True, stable=True)
            ]
        mixed = 1 - pool.gamma**8 - (1 - pool.gamma) ** 8
        chosen.append(float(mixed[rows[:24]].mean()))
        uniform.append(float(mixed.mean()))
        predictor.observe(pool.visit(rows[:24]))
    assert sum(chosen[20:]) / 20 > sum(uniform[20:]) / 20 + 0.1


def test_a_fit_that_diverges_leaves_the_last_good_state(world):
    pool = world(60, 6)
    predictor = taught(pool, 3, 30, **SMALL)
    good = predictor.state_dict()
    visits = pool.visit(pool.some(30))
    before = predictor.predict().mu
    predictor.fit.rate = 1e30
    with pytest.raises(FitDiverged):
        predictor.observe(visits)
    state = predictor.state_dict()
    assert good.keys() == state.keys()
    assert all(torch.equal(good[name], state[name]) for name in good)
    assert torch.equal(predictor.predict().mu, before)
    predictor.fit.rate = 0.04
    twin = Neural(pool.features, device=CPU, **SMALL)
    twin.load_state_dict(good)
    for one in (predictor, twin):
        one.observe(visits)
    assert torch.equal(predictor.predict().mu, twin.predict().mu)


def test_a_new_frame_that_can_not_be_fitted_is_not_taken(world):
    pool = world(60, 6)
    predictor = taught(pool, 3, 30, **SMALL)
    before = predictor.predict().mu
    broken = pool.features.x * torch.nan
    with pytest.raises(FitDiverged):
        predictor.grow(Features(broken, pool.features.blocks, 30))
    assert torch.equal(predictor.predict().mu, before)


def test_in_another_frame_it_learns_anew_from_what_it_remembers():
    random = seeded(5)
    raw = torch.randn(500, 6, generator=random)
    theta = raw.double() @ torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
    predictor = Neural(
        fit_frame({"surface": raw[:400]}).features({"surface": raw}).head(400), device=CPU, width=16
    )
    for _ in range(12):
        rows = torch.randperm(400, generator=random)[:40]
        n = torch.full((40,), 8.0, dtype=torch.float64)
        predictor.observe(
            Visits(rows, torch.binomial(n, torch.sigmoid(theta[rows]), generator=random), n)
        )
    before = predictor.predict().mean
    predictor.grow(fit_frame({"surface": raw * 3.0 + 1.0}).features({"surface": raw * 3.0 + 1.0}))
    after = predictor.predict().mean
    assert float((after[:400] - before).abs().mean()) < 0.08
    assert spearman(after[400:], theta[400:]) > 0.7


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"draws": 1},
        {"rate": 0.0},
        {"rate": math.nan},
        {"prior": "last"},
        {"residual": False},
    ],
)
def test_parameters_out_of_range_are_refused(world, wrong):
    with pytest.raises(ValueError, match=r"must be|needs"):
        Neural(world(5).features, device=CPU, **wrong)


def test_the_size_of_the_paper_can_be_had(world):
    parameters = {"width": 512, "layers": 3, "iterations": 1, "draws": 2}
    pool = world(40, 8)
    predictor = Neural(pool.features, device=CPU, **parameters)
    assert 18e6 < sum(value.numel() for value in predictor.model.parameters()) < 22e6
    predictor.observe(pool.visit(pool.some(8)))
    assert predictor.predict().mu.isfinite().all()
