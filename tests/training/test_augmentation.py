import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from fmcs_bench.backbones.create import create_backbone
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training.augmentation import Augmentation
from fmcs_bench.training.loop import Batches, fit, predict
from fmcs_bench.training.losses import Objective
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import Recipe
from fmcs_bench.training.trajectory import image_batches

CPU = torch.device("cpu")
NUM, SIDE = 400, 16
IMAGES = torch.rand(NUM, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 1  # 0 stands for the outside
ROWS = torch.arange(NUM)


def augmented(name, seed=0):
    return Augmentation(name, NUM, seed=seed, device=CPU)(IMAGES, ROWS)


def test_none_is_no_augmentation():
    assert Augmentation.of(Recipe(), NUM, seed=0, device=CPU) is None
    assert Augmentation.of(Recipe(augmentation="flip"), NUM, seed=0, device=CPU) is not None


def test_flip_mirrors_about_half_of_the_images():
    flipped = [torch.equal(new, old.flip(-1)) for new, old in zip(augmented("flip"), IMAGES, strict=True)]
    same = [torch.equal(new, old) for new, old in zip(augmented("flip"), IMAGES, strict=True)]
    assert all(a != b for a, b in zip(flipped, same, strict=True))
    assert 160 < sum(flipped) < 240


def test_crop_flip_gives_what_torchvision_cuts_and_every_shift_is_drawn():
    margin = SIDE // 8
    wide = transforms.pad(IMAGES, [margin])
    found = []
    for new, old in zip(augmented("crop-flip"), wide, strict=True):
        candidates = {
            (y, x, flip): transforms.horizontal_flip(cut) if flip else cut
            for y in range(2 * margin + 1)
            for x in range(2 * margin + 1)
            for cut in [transforms.crop(old, y, x, SIDE, SIDE)]
            for flip in (False, True)
        }
        (match,) = [key for key, candidate in candidates.items() if torch.equal(new, candidate)]
        found.append(match)
    assert len(set(found)) == 2 * (2 * margin + 1) ** 2
    assert 160 < sum(flip for _, _, flip in found) < 240


def test_it_depends_on_the_seed_and_the_image_alone():
    assert torch.equal(augmented("crop-flip"), augmented("crop-flip"))
    assert not torch.equal(augmented("crop-flip"), augmented("crop-flip", seed=1))
    order = torch.randperm(NUM, generator=torch.Generator().manual_seed(5))
    shuffled = Augmentation("crop-flip", NUM, seed=0, device=CPU)(IMAGES[order], order)
    assert torch.equal(shuffled, augmented("crop-flip")[order])


def seen_in_training(recipe, *, after_epoch=None, epochs=2, model=None, num=40):
    seen = []

    def loss(model, inputs, targets):
        seen.append(inputs.clone())
        return torch.nn.functional.cross_entropy(model(inputs), targets % 10)

    model = model or create_backbone("smallcnn", 10, seed=0)
    data = Batches(IMAGES[:num], ROWS[:num], lambda x: x)
    fit(model, data, loss, recipe, epochs=epochs, seed=3, after_epoch=after_epoch)
    return seen


def test_methods_of_one_seed_see_the_same_changed_images_and_every_epoch_others():
    recipe = Recipe(batch_size=20, augmentation="crop-flip")
    first = seen_in_training(recipe)
    other_model = seen_in_training(recipe, model=create_backbone("smallcnn", 10, seed=9))
    assert all(torch.equal(a, b) for a, b in zip(first, other_model, strict=True))
    plain = seen_in_training(Recipe(batch_size=20))
    assert not torch.equal(first[0], plain[0])
    by_image = [sorted(x.sum().item() for x in torch.cat(first[i : i + 2])) for i in (0, 2)]
    assert by_image[0] != by_image[1]


def test_only_training_batches_are_changed():
    data = Batches(IMAGES[:40], ROWS[:40] % 10, lambda x: x)
    model = create_backbone("smallcnn", 10, seed=0)
    outputs = []

    def validate(*_):
        outputs.append(predict(model, data))
        with torch.no_grad():
            torch.testing.assert_close(outputs[-1], model(data.inputs), rtol=1e-4, atol=1e-5)
        return {}

    recipe = Recipe(batch_size=20, augmentation="crop-flip")
    fit(model, data, Objective(Method()), recipe, epochs=1, seed=0, after_epoch=validate)
    assert len(outputs) == 1


def test_images_are_augmented_after_resizing():
    source = load_images("digits", limit=30)
    data = image_batches(source, Preprocessor(source, 32), "train", device=CPU)
    rows = torch.arange(len(data))
    augment = Augmentation("crop-flip", len(data), seed=0, device=CPU)
    ((plain, _),) = data.in_order(rows, len(rows))
    ((changed, _),) = data.in_order(rows, len(rows), augment)
    assert changed.shape == plain.shape == (30, 3, 32, 32)
    assert torch.equal(changed, augment(plain, rows))


def test_evaluators_are_not_augmented():
    with pytest.raises(ConfigError, match=r"recipe\.augmentation = 'flip'"):
        EvaluatorTrial.make(evaluator="conv", seed=0, recipe=Recipe(augmentation="flip"))
