"""Tests TD-MPC's world model: sizes, initialization, losses, rollouts (G5, G37, G38, G41)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.agent.critic import Critic, CriticConfig
from o2o.agent.policy import AWRPolicy, PolicyConfig
from o2o.core.errors import UsageError
from o2o.core.spec import Spec
from o2o.inspect.probe import ridge
from o2o.models.tdmpc import Config, Contrast, Model
from o2o.nn.blocks import ImageDecoder, SimNorm, SpatialSoftmax, random_shift, shift
from o2o.nn.two_hot import TwoHot
from tests.support.episodes import make_batch

STATE = Spec({"state": (11,)}, 3)
PIXELS = Spec({"camera": (3, 84, 84), "state": (4,)}, 4)
FOWM = Config(hidden_dim=32)
KEPT = Config(hidden_dim=32, keep_vectors=True)
TDMPC2 = Config(latent_dim=48, hidden_dim=32, simnorm=8, num_bins=101, target="online")


@pytest.mark.parametrize(
    ("spec", "count"),
    [(STATE, 2_668_854), (PIXELS, 2_734_573), (Spec({"state": (29,)}, 8), 2_693_947)],
)
def test_parameter_count_is_the_references(spec, count):
    model = Model(spec, 0.99, Config())
    parts = [
        model,
        Critic(50, spec.action_dim, 0.99, CriticConfig()),
        AWRPolicy(50, spec.action_dim, PolicyConfig()),
    ]
    assert sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("name", ["arm.joint", "observation/state"])
def test_observations_may_have_dots_and_slashes_in_their_names(name):
    encoder = Model(Spec({name: (4,)}, 2), 0.99, Config()).encoder
    assert encoder({name: torch.zeros(3, 4)}).shape == (3, 50)


def test_image_encoder_shrinks_84_to_3():
    sizes, x = [], torch.zeros(1, 3, 84, 84)
    for layer in Model(PIXELS, 0.99, Config()).encoder.parts["camera"].conv:
        x = layer(x)
        if isinstance(layer, torch.nn.Conv2d):
            sizes.append(x.shape[-1])
    assert sizes == [39, 18, 8, 3]


def test_reward_starts_at_zero_and_latents_lie_in_the_unit_cube():
    model = Model(STATE, 0.9, Config())
    z = model.encoder({"state": torch.randn(6, 11) * 100})
    state, reward, discount = model.step({"z": z}, torch.zeros(6, 3))
    assert reward.eq(0).all() and discount.eq(0.9).all()
    assert 0 <= z.min() and z.max() <= 1 and 0 < state["z"].min() and state["z"].max() < 1


def test_kept_vectors_are_decoded_as_they_were_observed_and_predicted_by_their_change():
    spec = Spec({"b": (2,), "camera": (3, 84, 84), "a": (3,)}, 2)
    model = Model(spec, 0.9, KEPT)
    obs = {"b": 100 * torch.randn(4, 2), "camera": torch.rand(4, 3, 84, 84), "a": torch.randn(4, 3)}
    state = model.observe(model.start(4), *[None] * 2, obs, None)
    assert state["z"].shape == model.start(4)["z"].shape == (4, model.feature_dim) == (4, 55)
    for name in ("a", "b"):
        assert torch.equal(model.decode(state)[name], obs[name])
    torch.nn.init.zeros_(model.dynamics[0][-1].weight), torch.nn.init.zeros_(model.dynamics[0][-1].bias)
    following, *_ = model.step(state, torch.ones(4, 2))
    assert torch.equal(model.decode(following)["b"], obs["b"])  # no change
    assert Model(spec, 0.9, FOWM).decode(state) is None


def test_kept_vectors_need_no_vector():
    spec = Spec({"camera": (3, 84, 84)}, 2)
    model = Model(spec, 0.9, KEPT)
    assert model.feature_dim == 50 and model.decode(model.start(1)) is None


@pytest.mark.parametrize("config", [FOWM, KEPT, TDMPC2])
@pytest.mark.parametrize("spec", [STATE, PIXELS])
def test_step_by_step_equals_unroll(spec, config):
    model = Model(spec, 0.9, config)
    batch = make_batch(spec, size=3)
    torch.manual_seed(5)
    unroll = model.unroll(batch)
    state = {"z": unroll.feature[0]}
    for t in range(4):
        state, _, _ = model.step(state, batch.action[t])
        assert torch.allclose(state["z"], unroll.feature[t + 1], atol=1e-6)


def test_losses_follow_the_formula():
    model = Model(STATE, 0.9, FOWM)
    torch.nn.init.normal_(model.reward[-1].weight)
    for p in model.target_encoder.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    batch = make_batch(STATE)
    unroll = model.unroll(batch)
    for t in range(5):
        predicted, reward, _ = model.step({"z": unroll.feature[t]}, batch.action[t])
        target = model.target_encoder({"state": batch.obs["state"][t + 1]})
        want = (predicted["z"] - target).square().mean(-1)
        assert torch.allclose(unroll.losses["dynamics"][t], want, atol=1e-6)
        assert torch.allclose(unroll.losses["reward"][t], (reward - batch.reward[t]) ** 2, atol=1e-5)
        assert torch.allclose(unroll.next_feature[t], model.encoder({"state": batch.obs["state"][t + 1]}))
    assert not unroll.next_feature.requires_grad and unroll.feature.requires_grad


def test_an_unknown_next_observation_gives_no_loss():
    batch = make_batch(STATE)
    batch.next_valid[3, 2] = False
    losses = Model(STATE, 0.9, FOWM).unroll(batch).losses
    assert losses["dynamics"][3, 2] == 0 and losses["dynamics"][3, 1] > 0


def test_shift_by_the_pad_is_the_identity_and_zero_is_the_corner():
    image = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8)
    same = torch.full((2, 2), 4)
    assert shift(image, same, 4).equal(image)
    padded = torch.nn.functional.pad(image.float(), (4, 4, 4, 4), mode="replicate").byte()
    assert shift(image, torch.zeros(2, 2, dtype=torch.long), 4).equal(padded[:, :, :84, :84])
    assert random_shift(image, 4).shape == image.shape


SMALL_PIXELS = Spec({"camera": (3, 64, 64), "state": (4,)}, 4)
SEEING = Config(
    latent_dim=16, hidden_dim=32, encoder_dim=16, channels=8, convolutions="keypoints", keep_vectors=True,
    decoder=True, contrast=True,
)  # fmt: skip


def test_the_decoder_starts_at_gray_and_its_error_of_the_mean_image_is_one():
    image = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    image[1, :, :, :32] = 255  # the left half varies
    decoder = ImageDecoder(5, (1, 64, 64))
    error = decoder.error(torch.randn(2, 5), image)
    variance = torch.tensor(
        [0.25, 0.1 * 0.125]
    )  # of the left half, and a tenth of the mean for the right one
    torch.testing.assert_close(error, (0.25 / variance).mean().expand(2))
    assert decoder(torch.zeros(1, 5)).eq(0.5).all()
    assert [ImageDecoder(5, (1, size, size)).shape[1] for size in (32, 48, 64, 84)] == [32, 24, 32, 28]


def test_the_latent_learns_to_reconstruct_the_image_that_was_not_shifted():
    model = Model(SMALL_PIXELS, 0.9, SEEING)
    batch = make_batch(SMALL_PIXELS, steps=3)
    losses = model.unroll(batch).losses
    assert losses["obs"].shape == (3, 8) and losses["obs"][1:].eq(0).all()
    gray = ImageDecoder(1, (3, 64, 64)).error(torch.zeros(8, 1), batch.obs["camera"][0])
    torch.testing.assert_close(losses["obs"][0], gray)  # it starts at gray, whatever the latent
    model.decoders["camera"].net[-1].weight.data.normal_()
    model.unroll(batch).losses["obs"].mean().backward()
    gradient = model.encoder.parts["camera"].conv[0].weight.grad
    assert gradient is not None and gradient.abs().sum() > 0
    decoded = model.decode({"z": torch.rand(2, model.feature_dim)})
    assert decoded["camera"].shape == (2, 3, 64, 64) and decoded["state"].shape == (2, 4)
    assert 0 <= decoded["camera"].min() and decoded["camera"].max() <= 1


def test_latents_that_are_joined_keep_each_camera_apart():
    spec = Spec({"front": (3, 64, 64), "wrist": (3, 64, 64), "state": (4,)}, 4)
    batch = make_batch(spec, steps=2)
    joined = replace(SEEING, fusion="concat", contrast=False, decoder=False)
    model = Model(spec, 0.9, joined)
    assert model.feature_dim == 4 + 2 * 16  # the kept vector is not encoded again
    obs = {name: value[0] for name, value in batch.obs.items()}
    z = model.encoder(obs)
    other = model.encoder(obs | {"wrist": obs["wrist"].flip(-1)})
    assert z[:, :20].equal(other[:, :20]) and not z[:, 20:].equal(other[:, 20:])
    assert model.unroll(batch).feature.shape == (2, 8, 36)
    assert Model(spec, 0.9, replace(joined, keep_vectors=False)).feature_dim == 3 * 16
    assert Model(STATE, 0.9, replace(joined, keep_vectors=True)).feature_dim == 11 + 16


@pytest.mark.parametrize("name", ["arm.camera", "arm/camera"])
def test_decoded_images_have_the_names_of_the_observations(name):
    model = Model(Spec({name: (3, 64, 64)}, 2), 0.9, Config(decoder=True))
    assert list(model.decode({"z": torch.zeros(1, 50)}) or {}) == [name]


def test_a_model_of_vectors_has_no_decoder():
    model = Model(STATE, 0.9, Config(decoder=True))
    assert model.decode(model.start(1)) is None and "obs" not in model.unroll(make_batch(STATE)).losses


def test_contrast_falls_from_chance_to_zero_where_latents_tell_windows_apart():
    torch.manual_seed(0)
    contrast, same = Contrast(16), torch.rand(1, 1, 16).expand(2, 8, 16)
    torch.testing.assert_close(contrast(same, same), torch.ones(2, 8))  # ln 8 / ln 8
    apart = torch.rand(2, 64, 16)
    assert contrast(apart, apart).mean() < 0.6 < 1.0 < contrast(apart, apart.roll(1, 1)).mean()


def test_unknown_next_observations_are_not_contrasted():
    model = Model(SMALL_PIXELS, 0.9, SEEING)
    batch = make_batch(SMALL_PIXELS, steps=2)
    batch.next_valid[1, :4] = False
    loss = model.unroll(batch).losses["consistency"]
    assert loss[1, :4].eq(0).all() and loss[1, 4:].gt(0).all()


def test_a_keypoint_is_where_a_channel_is_bright():
    x = torch.full((2, 1, 5, 9), -100.0)
    x[0, 0, 4, 2] = x[1, 0, 0, 8] = 100.0
    torch.testing.assert_close(SpatialSoftmax()(x), torch.tensor([[-0.5, 1.0], [1.0, -1.0]]))
    torch.testing.assert_close(SpatialSoftmax()(torch.zeros(1, 3, 4, 6)), torch.zeros(1, 6))


def test_keypoints_locate_a_small_object_before_any_training():
    torch.manual_seed(0)
    position = torch.randint(4, 56, (200, 2))
    images = torch.full((200, 3, 64, 64), 90, dtype=torch.uint8)
    for image, (row, column) in zip(images, position.tolist(), strict=True):
        image[0, row : row + 4, column : column + 4] = 250
    with torch.no_grad():
        latent = Model(SMALL_PIXELS, 0.9, SEEING).encoder.parts["camera"](images).double().numpy()
    mean, weight, offset = ridge(latent[:150], position[:150].double().numpy())
    error = (latent[150:] - mean) @ weight + offset - position[150:].numpy()
    assert np.abs(error).mean() < 2.0  # pixels


def test_predicted_end_discounts_the_plan():
    model = Model(STATE, 0.9, Config(hidden_dim=32, predict_end=True))
    torch.nn.init.zeros_(model.continues[-1].weight)
    _, _, discount = model.step({"z": torch.rand(4, 50)}, torch.zeros(4, 3))
    assert torch.allclose(discount, torch.full((4,), 0.45))
    assert "discount" in model.unroll(make_batch(STATE)).losses


# ---- options of TD-MPC2


def test_simnorm_makes_every_group_sum_to_one():
    norm = SimNorm(8)
    assert norm(torch.zeros(2, 3, 16)).eq(1 / 8).all()
    x = torch.randn(5, 16)
    torch.testing.assert_close(norm(x).view(5, 2, 8).sum(-1), torch.ones(5, 2))
    torch.testing.assert_close(norm(x)[:, 8:], x[:, 8:].softmax(-1))


@pytest.mark.parametrize("spec", [STATE, PIXELS])
def test_latents_lie_on_simplices_also_as_the_mean_of_several_observations(spec):
    model = Model(spec, 0.9, TDMPC2)
    z = model.encoder({name: value[0] for name, value in make_batch(spec).obs.items()})
    imagined, _, _ = model.step({"z": z}, torch.zeros(8, spec.action_dim))
    for latent in (z, imagined["z"]):
        assert latent.min() > 0
        torch.testing.assert_close(latent.view(8, 6, 8).sum(-1), torch.ones(8, 6))


def test_two_hot_reward_starts_at_zero_and_learns_by_cross_entropy():
    model, batch, code = Model(STATE, 0.9, TDMPC2), make_batch(STATE), TwoHot(101, 10, "symlog")
    z = model.encoder({"state": batch.obs["state"][0]})
    assert model.step({"z": z}, batch.action[0])[1].eq(0).all()
    torch.nn.init.normal_(model.reward[-1].weight)
    unroll = model.unroll(batch)
    for t in range(5):
        logits = model.reward(torch.cat([unroll.feature[t], batch.action[t]], -1))
        _, reward, _ = model.step({"z": unroll.feature[t]}, batch.action[t])
        torch.testing.assert_close(reward, code.decode(logits))
        want = -(code.encode(batch.reward[t]) * logits.log_softmax(-1)).sum(-1)
        torch.testing.assert_close(unroll.losses["reward"][t], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [STATE, PIXELS])
def test_online_target_is_the_next_feature(spec):
    model, batch = Model(spec, 0.9, TDMPC2), make_batch(spec)
    batch.next_valid[3, 2] = False
    unroll = model.unroll(batch)
    for t in range(5):
        predicted, _, _ = model.step({"z": unroll.feature[t]}, batch.action[t])
        want = (predicted["z"] - unroll.next_feature[t]).square().mean(-1) * batch.next_valid[t]
        torch.testing.assert_close(unroll.losses["dynamics"][t], want)


def test_online_target_needs_no_target_encoder():
    model = Model(STATE, 0.9, TDMPC2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.track()
    assert model.target_encoder is None and all(p.requires_grad for p in model.parameters())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"simnorm": 8}, "TDMPCConfig.latent_dim is 50, wanted a multiple of TDMPCConfig.simnorm, 8"),
        ({"simnorm": 1}, "TDMPCConfig.simnorm is 1, wanted at least 2"),
        ({"num_bins": 1}, "TDMPCConfig.num_bins is 1, wanted at least 2"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_one_line(field, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        Config(**field)
