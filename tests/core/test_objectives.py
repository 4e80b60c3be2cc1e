"""Every method against its formula, written out token by token in probability space."""

import copy
import inspect
import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from minidistill import distill
from minidistill import divergences as D
from minidistill.curriculum import AlphaTracker
from minidistill.logprobs import ResponseLogProbs
from minidistill.objectives import METHODS, TrainState, get_method, method

NAMES = [
    "sft", "seqkd", "kd", "rkl", "imitkd", "gkd", "skl", "srkl", "distillm", "speculative_kd", "dpkd",
    "cald", "cald_kl", "cald_by_epoch", "distillm2", "distillm2_no_alpha", "distillm2_no_beta",
    "distillm2_paper_beta", "dpo",
]  # fmt: skip


def source(seed, lengths=(4, 2, 1), vocab_size=5, sharpness=2.0):
    """A `ResponseLogProbs` batch of random models, float64; rubbish in the padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths), vocab_size)
    logits = [
        sharpness * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "pq"
    ]
    labels = torch.randint(vocab_size, shape[:2], generator=generator)
    mask = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(-1)
    logits[0][~mask] = float("nan")
    logits_q = logits[1].requires_grad_()
    scored = ResponseLogProbs(
        labels, mask, logits_q.log_softmax(-1), lambda: logits[0].log_softmax(-1)
    )
    scored.logits_q = logits_q
    return scored


@pytest.fixture
def sources():
    lengths = {"reference": (3, 3, 2), "tgo": (4, 2, 1), "sgo": (1, 3, 5), "speculative": (2, 4, 1)}
    lengths |= {"initial_sgo": (2, 1, 4), "replay": (3, 1, 2)}
    lengths |= {"chosen": (2, 3, 1), "rejected": (4, 1, 2)}
    return {name: source(i, each) for i, (name, each) in enumerate(lengths.items())}


def kl(p, q):
    return rel_entr(p, q).sum()


def per_response(y, f, reduce=np.mean):
    """f(p, q, token) of each token of each response, reduced over the response: (batch,)."""
    p, q = y.log_p.exp().numpy(), y.log_q.detach().exp().numpy()
    return np.array(
        [
            reduce([f(p[i, t], q[i, t], int(y.labels[i, t])) for t in range(int(y.mask[i].sum()))])
            for i in range(len(p))
        ]
    )


def skl_of(y, a):
    return per_response(y, lambda p, q, _: kl(p, a * p + (1 - a) * q))


def srkl_of(y, a):
    return per_response(y, lambda p, q, _: kl(q, (1 - a) * p + a * q))


def jsd_of(y, b):
    mix = lambda p, q: b * p + (1 - b) * q  # noqa: E731
    return per_response(y, lambda p, q, _: b * kl(p, mix(p, q)) + (1 - b) * kl(q, mix(p, q)))


def nll_of(y):
    return per_response(y, lambda p, q, token: -np.log(q[token]))


def kl_of(y):
    return per_response(y, lambda p, q, _: kl(p, q))


def dpkd_of(s, lam, reduce, winner="tgo", loser="initial_sgo"):
    ratio = lambda p, q, token: np.log(q[token] / p[token])  # noqa: E731
    delta = per_response(s[winner], ratio, reduce) - per_response(s[loser], ratio, reduce)
    return -np.log(1 / (1 + np.exp(-lam * delta)))


ORACLES = {
    "3_2_sft": ({}, lambda s: nll_of(s["reference"])),
    "3_3_seqkd": ({}, lambda s: nll_of(s["tgo"])),
    "3_4_kd": ({}, lambda s: kl_of(s["tgo"])),
    "rkl": ({}, lambda s: per_response(s["tgo"], lambda p, q, _: kl(q, p))),
    "3_5_imitkd": ({}, lambda s: kl_of(s["sgo"])),
    "3_6_gkd": ({}, lambda s: (jsd_of(s["tgo"], 0.9) + jsd_of(s["sgo"], 0.9)) / 2),
    "3_6_gkd beta": ({"beta": 0.2}, lambda s: (jsd_of(s["tgo"], 0.2) + jsd_of(s["sgo"], 0.2)) / 2),
    "skl": ({}, lambda s: skl_of(s["tgo"], 0.1)),
    "srkl": ({}, lambda s: srkl_of(s["tgo"], 0.1)),
    "3_7_distillm": ({}, lambda s: (srkl_of(s["tgo"], 0.1) + srkl_of(s["replay"], 0.1)) / 2),
    "3_7_distillm alpha": (
        {"alpha": 0.4},
        lambda s: (srkl_of(s["tgo"], 0.4) + srkl_of(s["replay"], 0.4)) / 2,
    ),
    "3_8_speculative_kd": ({}, lambda s: kl_of(s["speculative"])),
    "4_1_dpkd": ({}, lambda s: dpkd_of(s, 0.1, np.sum)),
    "4_1_dpkd lam": ({"lam": 0.7}, lambda s: dpkd_of(s, 0.7, np.sum)),
    "4_1_dpkd per_token": ({"per_token": True}, lambda s: dpkd_of(s, 0.1, np.mean)),
    "10_1_dpo": ({}, lambda s: dpkd_of(s, 0.1, np.sum, "chosen", "rejected")),
    "10_1_dpo beta": ({"beta": 2.0}, lambda s: dpkd_of(s, 2.0, np.sum, "chosen", "rejected")),
    "5_1_cald": ({}, lambda s: (skl_of(s["tgo"], 0.1) + srkl_of(s["sgo"], 0.1)) / 2),
    "5_1_cald alpha": (
        {"alpha": 0.3},
        lambda s: (skl_of(s["tgo"], 0.3) + srkl_of(s["sgo"], 0.3)) / 2,
    ),
    "5_1_cald beta": (
        {"beta": 0.3},
        lambda s: 0.7 * skl_of(s["tgo"], 0.1) + 0.3 * srkl_of(s["sgo"], 0.1),
    ),
    "cald_by_epoch": (
        {"alphas": [0.3, 0.2]},
        lambda s: (skl_of(s["tgo"], 0.3) + srkl_of(s["sgo"], 0.3)) / 2,
    ),
    # One epoch: β = 1 from its first step, and no pull up at all.
    "7_4_distillm2_paper_beta": ({}, lambda s: srkl_of(s["sgo"], 0.1) / 2),
    "cald_kl": ({}, lambda s: (skl_of(s["tgo"], 0) + srkl_of(s["sgo"], 0)) / 2),
    "8_1_distillm2": (
        {},
        lambda s: (0.5 * skl_of(s["tgo"], 0.1) + 0.5 * srkl_of(s["sgo"], 0.1)) / 2,
    ),
}


def name_in(case):
    return case.split(" ")[0].lstrip("0123456789_")


@pytest.mark.parametrize("case", ORACLES)
def test_a_method_equals_its_formula(case, sources):
    settings, oracle = ORACLES[case]
    loss = get_method(name_in(case))(sources, TrainState(), **settings)
    assert loss.shape == (3,)
    np.testing.assert_allclose(loss.detach().numpy(), oracle(sources), rtol=1e-10)


def test_every_method_has_an_oracle():
    assert {*map(name_in, ORACLES), "distillm2_no_alpha", "distillm2_no_beta"} == set(NAMES)
    assert set(NAMES) == {n for n, m in METHODS.items() if m.loss.__module__ == method.__module__}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_reads_only_what_it_says_and_padding_leaks_nothing(name, sources):
    # NaN stands in the padding of every teacher, so any leak would show.
    chosen = get_method(name)
    loss = chosen(
        {s: sources[s] for s in chosen.reads}, TrainState(epoch=1, trackers=trackers(0.1, 0.1))
    )
    loss.sum().backward()
    for key, y in sources.items():
        gradient = y.logits_q.grad
        assert (gradient is None) == (key not in chosen.reads)
        if gradient is not None:
            assert torch.isfinite(gradient[y.mask]).all()


@pytest.mark.parametrize("name", ["sft", "seqkd"])
def test_hard_labels_never_run_the_teacher(name, sources):
    def teacher():
        raise AssertionError("the teacher was asked")

    for y in sources.values():
        y._teacher = teacher
    assert torch.isfinite(get_method(name)(sources, TrainState())).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sft", "seqkd")])
def test_the_teacher_receives_no_gradient(name):
    weights = {}

    def with_teacher(key, seed):
        y = source(seed)
        weights[key] = torch.randn(y.log_q.shape, dtype=torch.float64, requires_grad=True)
        y._teacher = lambda: weights[key].log_softmax(-1)
        return y

    sources = {
        k: with_teacher(k, i)
        for i, k in enumerate(
            ("tgo", "sgo", "initial_sgo", "speculative", "replay", "chosen", "rejected")
        )
    }
    get_method(name)(sources, TrainState()).sum().backward()
    assert all(w.grad is None for w in weights.values())
    assert any(y.logits_q.grad is not None for y in sources.values())


# --- DPKD ---------------------------------------------------------------------------------------------
def test_4_1_dpkd_gradient_is_the_sigmoid_weight_times_the_difference(sources):
    # −λ σ(−λΔ) (∇ log q(y_t) − ∇ log q(y_s)): the teacher enters through the weight alone.
    lam, (tgo, sgo) = 0.5, (sources["tgo"], sources["initial_sgo"])
    loss = get_method("dpkd")(sources, TrainState(), lam=lam)
    found = torch.autograd.grad(loss.sum(), [tgo.logits_q, sgo.logits_q], retain_graph=True)
    ratios = [y.sum(y.token_log_q - y.token_log_p) for y in (tgo, sgo)]
    weight = lam * torch.sigmoid(-lam * (ratios[0] - ratios[1])).detach()
    for y, sign, gradient in ((tgo, -1, found[0]), (sgo, 1, found[1])):
        score = torch.autograd.grad(y.sum(y.token_log_q).sum(), y.logits_q, retain_graph=True)[0]
        torch.testing.assert_close(gradient, sign * weight[:, None, None] * score)


def test_4_1_dpkd_gains_without_end_by_lowering_the_students_own_responses(sources):
    sgo = sources["initial_sgo"]
    losses = []
    for shift in (0.0, 50.0, 500.0):
        lower = sgo.log_q.detach().clone()
        lower.scatter_add_(-1, sgo.labels.unsqueeze(-1), torch.full_like(lower[..., :1], -shift))
        moved = ResponseLogProbs(sgo.labels, sgo.mask, lower, lambda: sgo.log_p)
        losses.append(
            get_method("dpkd")({**sources, "initial_sgo": moved}, TrainState()).mean().item()
        )
    assert losses[0] > losses[1] > losses[2] >= 0


@pytest.mark.parametrize("lam", [0.0, math.nan])
def test_dpkd_refuses_a_lambda_that_is_not_positive(sources, lam):
    with pytest.raises(ValueError, match=f"lam must be positive, but got {lam}"):
        get_method("dpkd")(sources, TrainState(), lam=lam)


# --- DistiLLM-2 ---------------------------------------------------------------------------------------
def trackers(tgo, sgo, count=10):
    """What a first epoch leaves whose mean gaps are `tgo` and `sgo`."""
    return {"tgo": AlphaTracker(tgo * count, count), "sgo": AlphaTracker(sgo * count, count)}


def confidences(y):
    p = np.exp(per_response(y, lambda p, q, token: np.log(p[token])))
    q = np.exp(per_response(y, lambda p, q, token: np.log(q[token])))
    return p, q


def alpha_of(gap, m, alpha0, low=0.01, high=0.1):
    alpha = [1 - (1 - alpha0) * m / g if g > 0 else low for g in gap]
    return np.clip(alpha, low, high)


def contrast(s, alpha_t, alpha_s, beta):
    pull_up = [skl_of(s["tgo"], a)[i] for i, a in enumerate(alpha_t)]
    push_down = [srkl_of(s["sgo"], a)[i] for i, a in enumerate(alpha_s)]
    return ((1 - beta) * np.array(pull_up) + beta * np.array(push_down)) / 2


@pytest.fixture
def contrastive():
    """Responses with open gaps on both sides, of different size: some alphas low, some high."""
    for seed in range(200):
        s = {"tgo": source(seed), "sgo": source(seed + 1000, (1, 3, 5))}
        (p_t, q_t), (p_s, q_s) = confidences(s["tgo"]), confidences(s["sgo"])
        if ((p_t - q_t) > 0).sum() == 2 and ((q_s - p_s) > 0).sum() == 2:
            return s
    raise AssertionError("no seed has gaps of both signs")


def means_between(s):
    """Reference gaps that give the open samples an alpha strictly inside (0.01, 0.1)."""
    (p_t, q_t), (p_s, q_s) = confidences(s["tgo"]), confidences(s["sgo"])
    return (p_t - q_t).max() * 0.95 / 0.9, (q_s - p_s).max() * 0.93 / 0.9


@pytest.mark.parametrize("name", ["distillm2", "distillm2_no_beta"])
def test_8_1_7_1_in_later_epochs_alpha_follows_each_samples_own_gap(name, contrastive):
    s = contrastive
    m_t, m_s = means_between(s)
    state = TrainState(epoch=1, progress=0.25, trackers=trackers(m_t, m_s))
    loss = get_method(name)(s, state).detach().numpy()
    (p_t, q_t), (p_s, q_s) = confidences(s["tgo"]), confidences(s["sgo"])
    alpha_t, alpha_s = alpha_of(p_t - q_t, m_t, 0.1), alpha_of(q_s - p_s, m_s, 0.1)
    assert 0.01 < alpha_t.max() < 0.1
    assert 0.01 < alpha_s.max() < 0.1
    beta = 0.625 if name == "distillm2" else 0.5
    np.testing.assert_allclose(loss, contrast(s, alpha_t, alpha_s, beta), rtol=1e-6)
    assert state.log["alpha_tgo"] == pytest.approx(alpha_t.mean())
    assert state.log["alpha_sgo"] == pytest.approx(alpha_s.mean())
    assert state.log["beta"] == beta


@pytest.mark.parametrize("name", ["distillm2", "distillm2_no_beta"])
def test_8_1_7_1_the_bounds_of_alpha_are_settings_and_alpha0_lies_between(name, contrastive):
    s, low, high = contrastive, 0.0, 0.6
    (p_t, q_t), (p_s, q_s) = confidences(s["tgo"]), confidences(s["sgo"])
    m_t, m_s = (p_t - q_t).max() / 2, (q_s - p_s).max() / 2
    state = TrainState(epoch=1, trackers=trackers(m_t, m_s))
    loss = get_method(name)(s, state, alpha0=0.3, low=low, high=high).detach().numpy()
    alpha_t, alpha_s = (
        alpha_of(g, m, 0.3, low, high) for g, m in ((p_t - q_t, m_t), (q_s - p_s, m_s))
    )
    assert alpha_t.max() > 0.3
    np.testing.assert_allclose(loss, contrast(s, alpha_t, alpha_s, 0.5), rtol=1e-6)
    for alpha0 in (0.005, 0.2):  # in the first epoch, and then silently another
        with pytest.raises(ValueError, match="alpha0 must lie between low"):
            get_method(name).check_settings({"alpha0": alpha0})
    get_method(name).check_settings({"alpha0": 0.2, "high": 0.2})


def test_8_1_7_1_the_first_epoch_keeps_alpha0_and_measures_the_mean_gap(contrastive):
    s, state = contrastive, TrainState(epoch=0)
    loss = get_method("distillm2")(s, state, alpha0=0.05)
    np.testing.assert_allclose(
        loss.detach().numpy(), contrast(s, [0.05] * 3, [0.05] * 3, 0.5), rtol=1e-6
    )
    (p_t, q_t), (p_s, q_s) = confidences(s["tgo"]), confidences(s["sgo"])
    assert state.trackers["tgo"].reference_gap == pytest.approx((p_t - q_t).mean())
    assert state.trackers["sgo"].reference_gap == pytest.approx((q_s - p_s).mean())
    get_method("distillm2")(s, state)
    assert state.trackers["tgo"].count == 6
    assert state.trackers["tgo"].gap_sum == pytest.approx(2 * (p_t - q_t).sum())
    state.epoch = 1
    get_method("distillm2")(s, state)
    assert state.trackers["tgo"].count == 6


def test_8_1_a_state_that_was_saved_goes_on_as_if_it_had_not_been(contrastive):
    state, loaded = TrainState(epochs=2, progress=0.25), TrainState()
    get_method("distillm2")(contrastive, state)
    loaded.load_state_dict(copy.deepcopy(state.state_dict()))
    assert loaded == state
    for each in (state, loaded):
        each.epoch = 1
    losses = [get_method("distillm2")(contrastive, each) for each in (state, loaded)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", ["distillm2", "distillm2_no_alpha"])
def test_8_1_7_3_the_ramp_ends_where_it_is_told(contrastive, name):
    state = TrainState(progress=0.9)
    get_method(name)(contrastive, state, beta_end=0.4)
    assert state.log["beta"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("name", "progress", "beta0", "beta"),
    [
        ("distillm2", 0.0, 0.5, 0.5),
        ("distillm2", 0.25, 0.3, 0.525),
        ("distillm2", 0.9, 0.5, 0.75),
        ("distillm2_no_alpha", 0.25, 0.3, 0.525),
        ("distillm2_no_beta", 0.9, 0.3, 0.3),
    ],
)
def test_8_1_7_3_beta_weighs_the_push_down_and_follows_its_schedule(
    contrastive, name, progress, beta0, beta
):
    loss = get_method(name)(contrastive, TrainState(progress=progress), beta0=beta0)
    np.testing.assert_allclose(
        loss.detach().numpy(), contrast(contrastive, [0.1] * 3, [0.1] * 3, beta), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("epoch", "progress", "beta"),
    [(0, 0.0, 0.5), (0, 0.2, 0.25 + 0.8), (1, 0.25, 0.5), (2, 0.55, 0.75 + 0.2), (3, 0.75, 1.0)],
)
def test_7_4_the_papers_beta_counts_epochs_and_the_share_of_this_one(
    contrastive, epoch, progress, beta
):
    state = TrainState(epoch=epoch, epochs=4, progress=progress)
    loss = get_method("distillm2_paper_beta")(contrastive, state)
    wanted = contrast(contrastive, [0.1] * 3, [0.1] * 3, min(1.0, beta))
    np.testing.assert_allclose(loss.detach().numpy(), wanted, rtol=1e-6)
    assert state.log["beta"] == pytest.approx(min(1.0, beta))


@pytest.mark.parametrize(("epoch", "alpha"), [(0, 0.3), (1, 0.2), (2, 0.2), (7, 0.2)])
def test_an_alpha_for_each_epoch_and_the_last_one_from_then_on(contrastive, epoch, alpha):
    loss = get_method("cald_by_epoch")(contrastive, TrainState(epoch=epoch), alphas=[0.3, 0.2])
    wanted = get_method("cald")(contrastive, TrainState(), alpha=alpha)
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("bad", [7, [], None, [0.1, 1.5], [float("nan")]])
def test_alphas_by_epoch_that_cannot_be_are_refused_before_anything_runs(bad):
    with pytest.raises(ValueError, match="alphas must"):
        get_method("cald_by_epoch").check_settings({"alphas": bad})


def test_8_1_without_alpha_nothing_depends_on_the_gaps(contrastive):
    state = TrainState(epoch=2, trackers=trackers(*means_between(contrastive)))
    loss = get_method("distillm2_no_alpha")(contrastive, state, alpha0=0.2)
    np.testing.assert_allclose(
        loss.detach().numpy(), contrast(contrastive, [0.2] * 3, [0.2] * 3, 0.5), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["distillm", "cald", "distillm2"])
def test_3_7_5_1_8_1_the_gradient_flows_through_the_student_inside_both_mixtures(contrastive, name):
    tgo, sgo = contrastive["tgo"], contrastive["sgo"]

    def in_probabilities(y, reverse):
        p, q = y.log_p.exp(), y.log_q.exp()
        a, m = (q, 0.9 * p + 0.1 * q) if reverse else (p, 0.1 * p + 0.9 * q)
        return y.mean((a * (a / m).log()).sum(-1)).sum()

    scale = 0.25 if name == "distillm2" else 0.5  # beta is one half at the start
    expected = scale * (in_probabilities(tgo, name == "distillm") + in_probabilities(sgo, True))
    loss = get_method(name)({**contrastive, "replay": sgo}, TrainState()).sum()
    for y in (tgo, sgo):
        (found,) = torch.autograd.grad(loss, y.log_q, retain_graph=True)
        (wanted,) = torch.autograd.grad(expected, y.log_q, retain_graph=True)
        torch.testing.assert_close(found[y.mask], wanted[y.mask])


def test_8_1_at_the_start_distillm2_is_half_of_cald(contrastive):
    halves = get_method("distillm2")(contrastive, TrainState())
    torch.testing.assert_close(2 * halves, get_method("cald")(contrastive, TrainState()))


# --- settings and names -------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [1.5, math.nan])
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("gkd", "beta"),
        ("cald", "alpha"),
        *((n, s) for n in NAMES if n.startswith("distillm2") for s in ("alpha0", "beta0")),
    ],
)
def test_a_weight_out_of_range_is_refused_by_the_name_it_was_given(sources, name, setting, bad):
    with pytest.raises(ValueError, match=rf"{setting} must lie in \[0, 1\], but got {bad}"):
        get_method(name)(sources, TrainState(), **{setting: bad})


def test_an_unknown_method_names_the_nearest_and_lists_all():
    with pytest.raises(ValueError, match="did you mean 'distillm2'") as error:
        get_method("distilm2")
    assert all(name in str(error.value) for name in NAMES)


def test_an_unknown_setting_names_the_ones_there_are():
    with pytest.raises(TypeError, match="'gkd' has no setting 'alpha'; it has: beta"):
        get_method("gkd").check_settings({"alpha": 0.1})
    with pytest.raises(TypeError, match="'kd' has no setting 'alpha'; it has: none"):
        get_method("kd").check_settings({"alpha": 0.1})


def test_a_signature_says_what_a_method_reads_and_sets():
    assert get_method("distillm2").reads == ("tgo", "sgo")
    assert get_method("distillm2").settings == {
        "alpha0": 0.1, "low": 0.01, "high": 0.1, "beta0": 0.5, "beta_end": 0.75,
    }  # fmt: skip
    for name, chosen in METHODS.items():
        assert chosen.reads, name
        assert inspect.getdoc(chosen.loss), name


def test_a_learners_own_method_registers_and_trains(pair, task):
    @method
    def total_variation(tgo: ResponseLogProbs, *, weight: float = 1.0) -> torch.Tensor:
        """TV on the teacher's responses."""
        return weight * tgo.mean(D.total_variation(tgo.log_p, tgo.log_q))

    try:
        history = distill(
            pair, task, "total_variation", epochs=1, batch_size=16, max_new_tokens=4,
            progress=False, weight=2.0,
        )  # fmt: skip
    finally:
        del METHODS["total_variation"]
    assert len(history.steps) == 3
    assert 0 < history.steps[0]["loss"] <= 2
