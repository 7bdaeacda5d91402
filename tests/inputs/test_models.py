"""Models by specification: timm, factories, weights that fit and weights that do not."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from probes import UsageError
from repanalysis.inputs.models import load_model

RESNET = "py:tests.networks.cifar_resnet:resnet20"


def test_a_timm_model_has_its_preprocessing() -> None:
    torch.manual_seed(0)
    model = load_model("timm:resnet18", weights="random")
    assert model.input_size == (3, 224, 224)
    assert model.transform is not None
    image = model.transform(Image.fromarray(np.full((300, 400, 3), 124, np.uint8)))
    assert image.shape == (3, 224, 224)
    assert image[0].mean() == pytest.approx((124 / 255 - 0.485) / 0.229, abs=1e-3)
    assert model.card["model"] == "timm:resnet18 (random weights)"
    assert len(model.card["weights_sha256"]) == 64
    assert not model.module.training


def test_the_hash_depends_on_the_weights() -> None:
    torch.manual_seed(0)
    first = load_model(RESNET).card["weights_sha256"]
    torch.manual_seed(0)
    assert load_model(RESNET).card["weights_sha256"] == first
    assert load_model(RESNET).card["weights_sha256"] != first


def test_a_factory_may_use_timms_configuration_and_options_override_it() -> None:
    model = load_model(RESNET)
    assert model.input_size == (3, 32, 32)
    assert model.card["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert load_model(RESNET, size=64, mean=(0.0, 0.0, 0.0)).card["preprocessing"]["mean"] == [0.0, 0.0, 0.0]
    silent = load_model("py:repanalysis.networks.digits_cnn:digits_cnn")
    assert silent.transform is None
    assert silent.input_size is None
    grey = load_model("py:repanalysis.networks.digits_cnn:digits_cnn", size=8)
    assert grey.input_size == (1, 8, 8)
    assert grey.transform is not None
    assert grey.transform(Image.fromarray(np.full((9, 9), 255, np.uint8))).mean() == 1.0


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3}])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_read_from_every_common_wrapper(tmp_path: Path, wrap: object, suffix: str) -> None:
    torch.manual_seed(5)
    state = load_model(RESNET).module.state_dict()
    path = tmp_path / f"w{suffix}"
    wrapped = wrap(state)  # type: ignore[operator]
    if suffix == ".pt":
        torch.save(wrapped, path)
    else:
        save_file(wrapped.get("state_dict", wrapped), path)
    loaded = load_model(RESNET, weights=path).module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = load_model(RESNET).module.state_dict()
    del state["linear.bias"]
    state |= {"head.weight": torch.zeros(1), "linear.weight": torch.zeros(5, 64)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UsageError) as caught:
        load_model(RESNET, weights=tmp_path / "w.pt")
    assert str(caught.value).endswith(
        "do not fit CifarResNet (1 missing: linear.bias; 1 unknown: head.weight; "
        "1 of another shape: linear.weight (5, 64) for (10, 64))."
    )


def test_files_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no weights file"):
        load_model(RESNET, weights=tmp_path / "none.pt")
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("hello, this is not a file of weights at all")
        with pytest.raises(UsageError, match="can't be read as weights"):
            load_model(RESNET, weights=tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UsageError, match="holds no dictionary of tensors"):
        load_model(RESNET, weights=tmp_path / "list.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "module.pt")  # pickled code, which must not run
    with pytest.raises(UsageError, match="can't be read as weights"):
        load_model(RESNET, weights=tmp_path / "module.pt")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("resnet18", "Unknown model 'resnet18'.* Write timm:NAME, .*, scattering:J=3,L=8 or py:package.module:factory"),
        ("tim:resnet18", "Did you mean 'timm'?"),
        ("timm:resnet81", "timm has no model 'resnet81'. Did you mean 'resnet"),
        ("py:os.path", "names no part of a module"),
        ("py:no_such_package.x:f", "There is no module 'no_such_package'"),
        ("py:tests.networks.cifar_resnet:resnet21", "has no 'resnet21'. Did you mean 'resnet"),
        ("py:os:getenvb", r"required arguments \(key\)"),
        ("py:os:get_exec_path", "returned a list; a torch.nn.Module is needed"),
        ("py:os:system", "is a built-in function; a function or class that makes a torch.nn.Module is needed"),
        ("py:os:abort", "is a built-in function"),
        ("py:shutil:rmtree", r"has required arguments \(path\); write a function"),
        ("py:os:sep", "is a str; a function or class"),
        ("py:pathlib:Path", "is a type; a function or class"),
        ("py:tests.inputs.test_models:RESNET", "is a str"),
        ("py:torch.nn:Linear", r"required arguments \(in_features, out_features\)"),
        ("py::f", "names no part of a module"),
        ("py:.x:f", "names no part of a module"),
        ("py:os:", "names no part of a module"),
    ],
)
def test_unknown_specifications_have_one_sentence_errors(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_model(spec)


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(name: str, **_: object) -> nn.Module:
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("repanalysis.inputs.hubs.is_reachable", lambda _: True)
    with pytest.raises(UsageError, match=r"could not be had \(OSError: no route to the hub\). Give --weights FILE"):
        load_model("timm:resnet18")


def test_real_weights_classify_real_images(real_data: Path) -> None:
    """According to the data folder resnet20 reaches 0.810 on the 10,000 JPEG test images; half of them are used."""
    from repanalysis.inputs.data import load_data

    model = load_model(RESNET, weights=real_data / "weights" / "resnet20-12fca82f.th")
    data = load_data(f"imagefolder:{real_data / 'cifar10' / 'val.tar.gz'}", transform=model.transform).sample(1000, seed=0)
    with torch.no_grad():
        hits = sum(int((model.module(x).argmax(1) == y).sum()) for x, y, _ in data.loader(250))
    assert 0.77 < hits / 1000 < 0.85


def test_a_torchvision_model_has_its_own_transform() -> None:
    model = load_model("torchvision:resnet50", weights="random")
    assert model.input_size == (3, 224, 224)
    assert model.transform is not None
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 500, 3), dtype=np.uint8))
    from torchvision.models import ResNet50_Weights

    assert torch.equal(model.transform(picture), ResNet50_Weights.DEFAULT.transforms()(picture))
    assert model.card["preprocessing"]["crop_pct"] == pytest.approx(224 / 232)
    small = load_model("torchvision:resnet50", weights="random", size=64)
    assert small.transform is not None
    assert small.transform(picture).shape == (3, 64, 64)
    with pytest.raises(UsageError, match="torchvision has no model 'resnet81'"):
        load_model("torchvision:resnet81")


def test_a_huggingface_model_in_a_folder_has_its_own_processor(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    reference = transformers.ViTModel(config)
    reference.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    assert model.input_size == (3, 32, 32)
    assert model.transform is not None
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    expected = processor(images=picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(torch.as_tensor(model.transform(picture)), torch.as_tensor(expected), rtol=1e-3, atol=2e-2)
    assert torch.equal(model.module.state_dict()["layernorm.weight"], reference.state_dict()["layernorm.weight"])
    assert model.card["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
    random = load_model(f"hf:{tmp_path}", weights="random")
    assert random.card["weights_sha256"] != model.card["weights_sha256"]


def test_a_hub_that_can_not_be_reached_has_a_one_sentence_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="The weights of hf:nobody/nothing could not be had"):
        load_model("hf:nobody/nothing")


def test_a_missing_transformers_package_has_a_one_sentence_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"need transformers: pip install 'repanalysis\[hf\]'"):
        load_model("hf:facebook/dinov2-base")


@pytest.mark.parametrize(("values", "sentence"), [
    ({"std": (0.0,)}, "so numbers above 0 are needed"),
    ({"std": (0.2, -1.0, 0.2)}, "so numbers above 0 are needed"),
    ({"std": (float("nan"),) * 3}, "so numbers above 0 are needed"),
    ({"mean": (float("inf"),)}, "finite numbers are needed"),
    ({"mean": (0.5, 0.5)}, "--mean has 2 numbers, and the network takes images of 3 colours"),
    ({"std": (0.5,) * 4}, "--std has 4 numbers, and the network takes images of 3 colours"),
])  # fmt: skip
def test_invalid_means_and_deviations_of_colours_are_refused(values: dict[str, tuple[float, ...]], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_model(RESNET, **values)  # type: ignore[arg-type]


def test_colour_statistics_without_an_image_size_are_refused() -> None:
    """Regression: images of 8 pixels were resized to 224, timm's default, because --mean was given."""
    with pytest.raises(UsageError, match="give --size with --mean"):
        load_model("py:repanalysis.networks.digits_cnn:digits_cnn", mean=(0.5,))


def test_a_single_number_applies_to_every_colour() -> None:
    assert load_model(RESNET, mean=(0.5,)).card["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    transform = load_model(RESNET, mean=(0.5,), std=(0.25,)).transform
    assert transform is not None
    assert transform(Image.fromarray(np.full((32, 32, 3), 255, np.uint8))).numpy() == pytest.approx(2.0)


def test_transforms_can_be_pickled(tmp_path: Path) -> None:
    """The output of a pickled copy equals the output of the original."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 32}
    transformers.ViTModel(transformers.ViTConfig(**sizes)).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    for spec, options in {
        "timm:resnet18": {"weights": "random"}, "torchvision:resnet18": {"weights": "random"}, f"hf:{tmp_path}": {},
        RESNET: {"size": 16},
    }.items():  # fmt: skip
        transform = load_model(spec, **options).transform  # type: ignore[arg-type]
        assert transform is not None
        assert torch.equal(pickle.loads(pickle.dumps(transform))(picture), transform(picture))


def test_a_module_that_calls_exit_has_a_one_sentence_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program_of_mine.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="is a program: importing it ended with exit code 0"):
        load_model("py:program_of_mine:net")


class Tokens(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Embedding(9, 4), nn.Linear(4, 2))


class Clips(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv3d(3, 4, 3), nn.ReLU())


class Signals(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv1d(2, 4, 3), nn.ReLU())


class Vectors(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 4))


@pytest.mark.parametrize(
    ("factory", "size", "shape"),
    [
        ("Tokens", 7, (7,)),
        ("Tokens", "7", (7,)),
        ("Clips", "3x8x12x13", (3, 8, 12, 13)),
        ("Signals", "100", (2, 100)),
        ("Signals", (2, 100), (2, 100)),
        ("Vectors", "5", (5,)),
        ("Vectors", "6x5", (6, 5)),
        ("Vectors", "5x", (5,)),
    ],
)
def test_sizes_of_other_samples_than_square_images(
    factory: str, size: int | str | tuple[int, ...], shape: tuple[int, ...]
) -> None:
    model = load_model(f"py:tests.inputs.test_models:{factory}", size=size)
    assert (model.input_size, model.transform, model.card["preprocessing"]) == (shape, None, "none")
    assert model.takes_tokens == (factory == "Tokens")


def test_images_may_be_rectangular() -> None:
    model = load_model("timm:resnet18", weights="random", size="3x64x96")
    assert model.input_size == (3, 64, 96)
    assert model.transform is not None
    assert model.transform(Image.fromarray(np.zeros((100, 100, 3), np.uint8))).shape == (3, 64, 96)


def test_invalid_sizes_have_one_sentence_errors() -> None:
    for size in ("0", "3x0x2", "big", "3,4"):
        with pytest.raises(UsageError, match="is not a size; write 224, or 3x16x112x112"):
            load_model("py:tests.inputs.test_models:Clips", size=size)
    with pytest.raises(UsageError, match="takes clips, whose shape one number does not say; write 3x16x112x112"):
        load_model("py:tests.inputs.test_models:Clips", size=112)
    with pytest.raises(UsageError, match="Mean and standard deviation are those of images"):
        load_model("py:tests.inputs.test_models:Clips", size="3x8x9x9", mean=(0.5,))


def test_torchvision_video_networks_have_a_clip_size() -> None:
    assert load_model("torchvision:r3d_18", weights="random").input_size == (3, 16, 112, 112)
