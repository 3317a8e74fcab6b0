"""Augmentation policies: pixel by pixel against torchvision, and the contract every policy keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from pp_simve.inference.augmentations import (
    POLICIES,
    AugmentationPolicy,
    ColorJitter,
    Compose,
    FromTransforms,
    RandomAffine,
    RandomFlip,
    RandomGrayscale,
    RandomResizedCrop,
    augmentation_policy,
    base,
    draw_views,
)
from pp_simve.testing.objective import read_backs

from .programs import Dim

GREY, RGB, OBLONG = (1, 28, 28), (3, 32, 32), (3, 20, 33)
NAMED = [(name, shape) for name in POLICIES for shape in (GREY, RGB) if (name, shape) != ("crop+colour", GREY)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Noise, with a few flat patches, greys, blacks and whites: where hue and saturation are degenerate."""
    images = torch.rand(count, *shape, generator=generator(seed))
    images[:, :, :4, :4] = 0
    images[:, :, :4, 4:8] = 1
    images[:, :, 4:8, :4] = images[:, :1, 4:8, :4]
    images[:, :1, 4:8, 4:8] = images[:, -1:, 4:8, 4:8]
    return images


def one_by_one(
    policy: AugmentationPolicy, images: Tensor, seed: int, reference: Callable[..., Tensor]
) -> tuple[Tensor, Tensor]:
    """The policy's views of a batch, and the reference's, which gets each image and its parameters as floats."""
    parameters = policy.sample(len(images), generator=generator(seed))
    expected = [
        reference(image, **{name: float(parameters[name][i]) for name in policy.names})
        for i, image in enumerate(images)
    ]
    return policy.apply(images, parameters), torch.stack(expected)


def affine_reference(
    image: Tensor, rotation: float, scale: float, shift_x: float, shift_y: float, shear: float = 0.0
) -> Tensor:
    height, width = image.shape[-2:]
    translate: list[Any] = [shift_x * width, shift_y * height]
    bilinear = InterpolationMode.BILINEAR
    return tv.affine(image, rotation, translate, scale, [shear, 0.0], interpolation=bilinear)


def crop_reference(
    image: Tensor, crop_top: float, crop_left: float, crop_height: float, crop_width: float, **others: float
) -> Tensor:
    box = [int(crop_top), int(crop_left), int(crop_height), int(crop_width)]
    assert box == [crop_top, crop_left, crop_height, crop_width]
    return tv.resized_crop(image, *box, size=list(image.shape[-2:]))


def jitter_reference(
    image: Tensor, brightness: float, contrast: float, saturation: float, hue: float, **others: float
) -> Tensor:
    image = tv.adjust_contrast(tv.adjust_brightness(image, brightness), contrast)
    return tv.adjust_hue(tv.adjust_saturation(image, saturation), hue)


def grey_reference(image: Tensor, grey: float, **others: float) -> Tensor:
    return tv.rgb_to_grayscale(image, num_output_channels=3) if grey else image


def flip_reference(image: Tensor, horizontal_flip: float = 0.0, vertical_flip: float = 0.0, **others: float) -> Tensor:
    image = tv.horizontal_flip(image) if horizontal_flip else image
    return tv.vertical_flip(image) if vertical_flip else image


def in_turn(*references: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reference(image: Tensor, **parameters: float) -> Tensor:
        for step in references:
            image = step(image, **parameters)
        return image

    return reference


Make = Callable[[tuple[int, int, int]], AugmentationPolicy]
ZERO = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
# A pixel's place is known to about 1e-6 of the image's side, and noise has slopes of up to 1 a pixel.
OF_GREY: dict[str, tuple[Make, Callable[..., Tensor], float]] = {
    "affine": (lambda _: RandomAffine(), affine_reference, 2e-5),
    "affine, wide": (
        lambda _: RandomAffine(rotation=(-180, 180), scale=(0.5, 2), shift=(-0.5, 0.5), shear=(-40, 40)),
        affine_reference,
        2e-5,
    ),
    **{
        f"crop of {area}": (lambda shape, area=area: RandomResizedCrop(shape, area=area), crop_reference, 1e-5)
        for area in ((0.4, 1.0), (0.01, 0.1), (1.0, 1.0))
    },
    "horizontal flip": (lambda _: RandomFlip("horizontal"), flip_reference, 0),
    "vertical flip": (lambda _: RandomFlip("vertical"), flip_reference, 0),
}
OF_COLOUR: dict[str, tuple[Make, Callable[..., Tensor], float]] = {
    **{
        name: (lambda _, strength=strength: ColorJitter(**ZERO | strength), jitter_reference, 1e-5)
        for name, strength in {
            "brightness": {"brightness": 0.9},
            "contrast": {"contrast": 0.9},
            "saturation": {"saturation": 2.0},
            "hue": {"hue": 0.5},
        }.items()
    },
    "jitter": (lambda _: ColorJitter(), jitter_reference, 1e-5),
    "grey": (lambda _: RandomGrayscale(0.5), grey_reference, 1e-6),
    "crop+colour": (
        lambda shape: augmentation_policy("crop+colour", shape),
        in_turn(crop_reference, flip_reference, jitter_reference, grey_reference),
        2e-5,
    ),
    "paper": (
        lambda shape: augmentation_policy("paper", shape),
        in_turn(jitter_reference, crop_reference, flip_reference),
        2e-5,
    ),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("name", "shape"),
    [*((name, shape) for name in OF_GREY for shape in (GREY, OBLONG)), *((name, RGB) for name in OF_GREY | OF_COLOUR)],
)
def test_views_are_torchvisions_pixel_by_pixel(name: str, shape: tuple[int, int, int], seed: int) -> None:
    make, reference, tolerance = (OF_GREY | OF_COLOUR)[name]
    views, expected = one_by_one(make(shape), photographs(32, shape, seed), seed, reference)
    torch.testing.assert_close(views, expected, atol=tolerance, rtol=0)


def test_a_hue_shift_of_a_third_of_a_turn_moves_red_to_green_to_blue() -> None:
    red = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1)
    neutral = {name: torch.ones(1) for name in ("brightness", "contrast", "saturation")}
    green = ColorJitter().apply(red, neutral | {"hue": torch.tensor([1 / 3])})
    blue = ColorJitter().apply(red, neutral | {"hue": torch.tensor([-1 / 3])})
    torch.testing.assert_close(green.flatten(), torch.tensor([0.1, 0.8, 0.1]))
    torch.testing.assert_close(blue.flatten(), torch.tensor([0.1, 0.1, 0.8]))


def test_a_shift_of_one_pixel_moves_right_and_down_and_leaves_zeros() -> None:
    image = torch.arange(1.0, 17.0).view(1, 1, 4, 4) / 16
    parameters = {name: torch.zeros(1) for name in RandomAffine().names} | {"scale": torch.ones(1)}
    moved = RandomAffine().apply(image, parameters | {"shift_x": torch.tensor([0.25]), "shift_y": torch.tensor([0.25])})
    expected = torch.zeros_like(image)
    expected[..., 1:, 1:] = image[..., :-1, :-1]
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize(("name", "shape"), NAMED)
class TestEveryNamedPolicy:
    def test_shapes_types_and_range(self, name: str, shape: tuple[int, int, int]) -> None:
        policy = augmentation_policy(name, shape)
        images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8, generator=generator())
        before = images.clone()
        views, parameters = draw_views(policy, images, 3, generator=generator())
        assert views.shape == (3, 5, *shape)
        assert views.dtype == torch.float32
        assert tuple(parameters) == policy.names
        assert all(value.shape == (3, 5) and value.dtype == torch.float32 for value in parameters.values())
        assert views.min() >= 0
        assert views.max() <= 1 + 1e-6
        assert torch.equal(images, before)

    def test_bytes_and_floats_give_the_same_views_and_only_the_given_generator_matters(
        self, name: str, shape: tuple[int, int, int]
    ) -> None:
        policy = augmentation_policy(name, shape)
        images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8, generator=generator())
        state = torch.random.get_rng_state()
        views, parameters = draw_views(policy, images, 2, generator=generator(1))
        assert torch.equal(torch.random.get_rng_state(), state)
        again, same = draw_views(policy, images.float() / 255, 2, generator=generator(1))
        assert torch.equal(views, again)
        assert all(torch.equal(parameters[key], same[key]) for key in parameters)
        assert not torch.equal(views, draw_views(policy, images, 2, generator=generator(2))[0])

    def test_views_differ_and_follow_from_their_parameters(self, name: str, shape: tuple[int, int, int]) -> None:
        policy = augmentation_policy(name, shape)
        images = photographs(6, shape)
        views, parameters = draw_views(policy, images, 3, generator=generator())
        assert not torch.equal(views[0], views[1])
        for j in range(3):
            alone = policy.apply(images, {key: value[j] for key, value in parameters.items()})
            torch.testing.assert_close(views[j], alone)

    def test_nothing_is_read_back_from_the_device(self, name: str, shape: tuple[int, int, int]) -> None:
        policy, images, source = augmentation_policy(name, shape), photographs(4, shape), generator()
        with read_backs() as found:
            draw_views(policy, images, 2, generator=source)
        assert found == []
        # Fake tensors have no values: whatever asks for one (.tolist() and .numpy() as well) is an error.
        with FakeTensorMode() as fake:
            views, _ = draw_views(policy, fake.from_tensor(images), 2, generator=source)
        assert views.shape == (2, 4, *shape)

    def test_parameters_stay_in_range_and_vary(self, name: str, shape: tuple[int, int, int]) -> None:
        parameters = augmentation_policy(name, shape).sample(4000, generator=generator())
        for key, value in parameters.items():
            assert value.std() > 0, key
            if key.endswith("flip") or key == "grey":
                assert set(value.tolist()) == {0.0, 1.0}
        if "crop_top" in parameters:
            top, left, height, width = (parameters[f"crop_{side}"] for side in ("top", "left", "height", "width"))
            assert bool(((top >= 0) & (left >= 0) & (height >= 1) & (width >= 1)).all())
            assert bool(((top + height <= shape[1]) & (left + width <= shape[2])).all())

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_an_accelerator_draws_the_same_pixels(self, name: str, shape: tuple[int, int, int]) -> None:
        policy, images = augmentation_policy(name, shape), photographs(8, shape)
        views, parameters = draw_views(policy, images.cuda(), 2, generator=torch.Generator("cuda").manual_seed(0))
        assert views.is_cuda
        assert all(value.is_cuda for value in parameters.values())
        flat = {key: value.flatten().cpu() for key, value in parameters.items()}
        expected = policy.apply(images.repeat(2, 1, 1, 1), flat).unflatten(0, (2, 8))
        torch.testing.assert_close(views.cpu(), expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize(("name", "shape"), NAMED)
def test_a_cpu_may_cut_the_batch_anywhere(
    name: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, images = augmentation_policy(name, shape), photographs(7, shape)
    whole, _ = draw_views(policy, images, 2, generator=generator())
    monkeypatch.setattr(base, "CPU_PART", 1)
    cut, _ = draw_views(policy, images, 2, generator=generator())
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "shape"), NAMED)
def test_autocast_leaves_views_alone(name: str, shape: tuple[int, int, int]) -> None:
    policy, images = augmentation_policy(name, shape), photographs(4, shape)
    expected, _ = draw_views(policy, images, 2, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views, _ = draw_views(policy, images, 2, generator=generator())
    assert torch.equal(views, expected)


def test_an_empty_batch_has_empty_views() -> None:
    views, parameters = draw_views(
        augmentation_policy("crop+colour", RGB), torch.rand(0, *RGB), 2, generator=generator()
    )
    assert views.shape == (2, 0, *RGB)
    assert parameters["hue"].shape == (2, 0)


def test_frequencies_and_ranges() -> None:
    count = 20_000
    drawn = augmentation_policy("crop+colour", RGB).sample(count, generator=generator())
    assert drawn["grey"].mean() == pytest.approx(0.2, abs=0.01)
    assert drawn["horizontal_flip"].mean() == pytest.approx(0.5, abs=0.02)
    untouched = (drawn["hue"] == 0) & (drawn["brightness"] == 1) & (drawn["contrast"] == 1) & (drawn["saturation"] == 1)
    assert untouched.float().mean() == pytest.approx(0.2, abs=0.01)
    assert drawn["hue"].abs().max() <= 0.1
    area = drawn["crop_height"] * drawn["crop_width"] / 32**2
    assert area.min() == pytest.approx(0.3, abs=0.03)
    assert area.max() == 1
    assert augmentation_policy("paper", RGB).sample(count, generator=generator())["brightness"].max() > 1.7


def test_boxes_too_wide_for_the_image_are_clamped() -> None:
    drawn = RandomResizedCrop((1, 8, 8), area=(1.0, 1.0), ratio=(9.0, 9.0)).sample(50, generator=generator())
    assert drawn["crop_width"].unique().tolist() == [8.0]
    assert drawn["crop_left"].unique().tolist() == [0.0]
    assert drawn["crop_height"].unique().tolist() == [3.0]
    assert drawn["crop_top"].unique().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_users_policy_works_alone_and_composed() -> None:
    images = photographs(4, GREY)
    views, parameters = draw_views(Dim(), images, 3, generator=generator())
    torch.testing.assert_close(views, images * (1 - parameters["dimming"])[..., None, None, None])
    both = Compose([Compose([RandomFlip()], GREY), Dim()], GREY)
    assert both.names == ("horizontal_flip", "dimming")
    views, parameters = draw_views(both, images, 2, generator=generator())
    assert set(parameters) == set(both.names)
    assert views.shape == (2, 4, *GREY)


def test_a_policy_that_breaks_its_contract_is_named() -> None:
    class Forgetful(Dim):
        def sample(self, count: int, *, generator: torch.Generator) -> dict[str, Tensor]:
            return {}

    class Shrinking(Dim):
        def apply(self, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
            return images[..., 1:]

    with pytest.raises(ValueError, match=r"Forgetful.sample\(8\) must return dimming, each of shape \(8,\), got \{\}"):
        draw_views(Forgetful(), photographs(4, GREY), 2, generator=generator())
    with pytest.raises(ValueError, match=r"Shrinking.apply must keep the shape \(4, 1, 28, 28\), got \(4, 1, 28, 27\)"):
        draw_views(Shrinking(), photographs(4, GREY), 2, generator=generator())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomAffine(rotation=(20, -20)), "rotation must be (lower, upper), lower first"),
        (lambda: RandomAffine(scale=(0, 1)), "scale must be (lower, upper)"),
        (lambda: RandomResizedCrop(RGB, area=(0.0, 1.0)), "area must be above 0"),
        (lambda: RandomResizedCrop(RGB, ratio=(0.0, 1.0)), "ratio must be above 0"),
        (lambda: RandomResizedCrop((3, 0, 32)), "image_shape must be (channel, height, width)"),
        (lambda: RandomFlip("diagonal"), "direction must be 'horizontal' or 'vertical'"),  # type: ignore[arg-type]
        (lambda: RandomFlip(probability=1.5), "probability must be a probability in [0, 1], got 1.5"),
        (lambda: ColorJitter(brightness=-1), "brightness must be a strength of at least 0, got -1"),
        (lambda: ColorJitter(hue=0.6), "hue must be a strength in [0, 0.5] turns, got 0.6"),
        (lambda: Compose([RandomFlip(), RandomFlip()], GREY), "horizontal_flip appears twice"),
        (
            lambda: augmentation_policy("crop+color", RGB),
            "did you mean 'crop+colour'? Known: affine, crop, crop+colour, paper",
        ),
        (lambda: augmentation_policy("zzz", RGB), "unknown view policy 'zzz'. Known: affine"),
        (lambda: augmentation_policy("crop+colour", GREY), "needs RGB images, 3 channels, got image_shape (1, 28, 28)"),
        (
            lambda: draw_views(RandomFlip(), torch.rand(2, *RGB), 0, generator=generator()),
            "views must be at least 1, got 0",
        ),
        (
            lambda: draw_views(RandomFlip(), torch.rand(*RGB), 2, generator=generator()),
            "(image, channel, height, width)",
        ),
        (lambda: draw_views(RandomFlip(), torch.zeros(2, *RGB).long(), 2, generator=generator()), "got torch.int64"),
        (
            lambda: draw_views(RandomFlip(), torch.rand(2, *RGB, device="meta"), 2, generator=generator()),
            "is on cpu and the",
        ),
        (
            lambda: draw_views(RandomGrayscale(), torch.rand(2, *GREY), 2, generator=generator()),
            "RandomGrayscale needs RGB images",
        ),
        (lambda: RandomFlip().apply(torch.zeros(2, *RGB, dtype=torch.uint8), {}), "draw_views converts uint8"),
        (
            lambda: augmentation_policy("affine", GREY).apply(torch.rand(2, *RGB), {}),
            "must have shape (n, 1, 28, 28), got (2, 3",
        ),
    ],
)
def test_errors_say_what_was_wrong(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is compared below, as plain text)
        make()
    assert message in str(error.value)


def test_a_range_of_one_number_fixes_a_parameter_and_takes_it_off_the_targets() -> None:
    policy = RandomAffine(rotation=(90.0, 90.0), scale=(1.0, 1.0), shift=(0.0, 0.0))
    assert policy.names == ()
    image = torch.rand(1, 1, 8, 8)
    turned = policy.apply(image, policy.sample(1, generator=torch.Generator()))
    torch.testing.assert_close(turned, image.rot90(-1, (-2, -1)), atol=1e-5, rtol=0)


PIPELINE = v2.Compose([v2.RandomResizedCrop(32, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4)])


@pytest.mark.parametrize(
    "policy",
    [
        FromTransforms(PIPELINE),
        FromTransforms(lambda images: images * torch.rand(len(images), 1, 1, 1), batched=True),
        Compose([Dim(), FromTransforms(PIPELINE)], RGB),
    ],
    ids=["per image", "batched", "composed"],
)
def test_transforms_draw_from_the_policys_generator(policy: AugmentationPolicy) -> None:
    images, before = photographs(6, RGB), torch.get_rng_state()
    original = images.clone()
    first, again, other = (draw_views(policy, images, 2, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert set(first[1]) == set(policy.names)  # the seeds are not recorded
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (2, 6, *RGB)
    assert not torch.equal(first[0][0], first[0][1]), "each view is drawn anew"
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images, original)
    assert draw_views(policy, images[:0], 2, generator=generator())[0].shape == (2, 0, *RGB)
    assert policy.apply(images[:0], policy.sample(0, generator=generator())).shape == (0, *RGB)


def test_two_pipelines_of_a_composition_have_seeds_of_their_own() -> None:
    def noise(image: Tensor) -> Tensor:
        return image + torch.rand(image.shape) / 4

    both = Compose([FromTransforms(noise), FromTransforms(noise)], GREY)
    views, _ = draw_views(both, torch.zeros(3, *GREY), 1, generator=generator())
    alone, _ = draw_views(both.transforms[0], torch.zeros(3, *GREY), 1, generator=generator())
    assert not torch.allclose(views, 2 * alone)


def test_a_pipeline_of_transforms_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = draw_views(FromTransforms(PIPELINE), photographs(7, RGB), 2, generator=generator())
    monkeypatch.setattr(base, "CPU_PART", 1)
    parts, _ = draw_views(FromTransforms(PIPELINE), photographs(7, RGB), 2, generator=generator())
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.Normalize([0.5], [0.1]), r"got values in \[-5, 5\]; leave out Normalize"),
        (v2.Resize((9, 8)), r"of shape \(.*1, 28, 28\), got \(.*1, 9, 8\); end it with v2.Resize\(\(28, 28\)\)"),
        (v2.ToDtype(torch.uint8, scale=True), "got torch.uint8; end it with v2.ToDtype"),
        (lambda image: image.numpy(), "got ndarray; end it with"),
    ],
)
def test_transforms_that_return_something_else_are_named(
    transform: Callable[[Tensor], Any], message: str, batched: bool
) -> None:
    images = torch.stack([torch.zeros(GREY), torch.ones(GREY)])
    images[0, 0, 0] = 1
    with pytest.raises(ValueError, match=message):
        draw_views(FromTransforms(transform, batched), images, 1, generator=generator())
